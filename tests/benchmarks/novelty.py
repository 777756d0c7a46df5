"""Novelty on genuine CLIP features of photographs with captions, beside its baselines.

    python tests/benchmarks/novelty.py coco_val2017_250_CLIP_ViTB16.npz

The file holds `image` and `caption_feature` [n, d], the words `caption` [n], `classes` [c] with `text_ensemble` [c, d],
and `truth` [n, c]: the classes that an image shows. A third of the classes is held out, twenty times. Images that show
known classes only are known, those that show held-out classes only are novel, and the captions of all others that name
no known class are the negatives. ROC-AUC / FPR95, the mean over the draws ± the standard deviation of the first; then
the same if captions that name held-out classes are left out too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from rag_clip.classifiers.novelty import Novelty
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import LabelSet
from rag_clip.evaluation.open_world import known_scores
from rag_clip.metrics.ranking import false_positive_rate, roc_auc
from rag_clip.prompts.mentions import Mentions

SCALE, DRAWS, SMALL = 100.0, 20, 30


def main() -> None:
    """Print a row for each way of telling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path)
    data = np.load(parser.parse_args().features, allow_pickle=True)
    images, captions, texts = (
        torch.nn.functional.normalize(torch.from_numpy(data[key].astype(np.float32)), dim=1)
        for key in ("image", "caption_feature", "text_ensemble")
    )
    names, truth = tuple(map(str, data["classes"])), torch.from_numpy(data["truth"].astype(bool))
    for strict in (False, True):
        found: dict[str, list[tuple[float, float]]] = {}
        for seed in range(DRAWS):
            held = torch.zeros(len(names), dtype=torch.bool)
            held[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[: len(names) // 3]] = True
            known = (truth & ~held).any(1) & ~(truth & held).any(1)
            novel = (truth & held).any(1) & ~(truth & ~held).any(1)
            avoided = Mentions(LabelSet(tuple(name for row, name in enumerate(names) if strict or not held[row])))
            silent = torch.tensor([not avoided.names(str(caption)) for caption in data["caption"]])
            text = ZeroShot(
                LabelSet(tuple(name for row, name in enumerate(names) if not held[row])), texts[~held], SCALE
            )
            negatives, rows = captions[silent & ~known & ~novel], known | novel
            scores = dict(known_scores(text, negatives, images[rows]))
            scores[f"groups of {SMALL}"] = 1 - Novelty(text, negatives, in_a_group=SMALL)(images[rows])
            for name, values in scores.items():
                pair = roc_auc(values, known[rows]), false_positive_rate(values, known[rows])
                found.setdefault(name or "groups of 120", []).append(pair)
        print("no caption names a held-out class" if strict else "captions may name held-out classes")
        for name, pairs in found.items():
            (area, rate), (spread, _) = np.mean(pairs, 0), np.std(pairs, 0, ddof=1)
            print(f"  {name:<24}{area:.3f} ± {spread:.3f} / {rate:.2f}")


if __name__ == "__main__":
    main()
