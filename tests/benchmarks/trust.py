"""Contrast and trust on genuine CLIP features, with captions that are wrong on purpose.

    python tests/benchmarks/trust.py NPZ...

An .npz holds `image` [n, d], `label` [n] and `text` [j, c, d]: the texts of j - 1 templates, and their ensemble last.
As captions of a class serve 40 of the templates' texts, of which a share is another class's. Top-1 in percent of one
template and of the ensemble, alone and with these captions mixed in.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from rag_clip.prompts.contrast import ROUNDS, class_means, contrast, trust

SCALE = 100.0
CAPTIONS = 40
WEIGHT = 0.95


def main() -> None:
    """Print a row for each file, share of wrong captions, and templates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="+", type=Path)
    for path in parser.parse_args().features:
        arrays = np.load(path, allow_pickle=True)
        images, texts = (normalize(torch.from_numpy(arrays[key]).double(), dim=-1) for key in ("image", "text"))
        targets = torch.from_numpy(arrays["label"].astype(np.int64))
        for wrong in (0.0, 0.3, 0.6):
            vectors, classes = draw_captions(texts[:-1], wrong)
            for name, templates in (("one template", texts[0]), ("ensemble", texts[-1])):
                cells = [
                    f"{row} {accuracy(weights, images, targets):.2f}"
                    for row, weights in mixed(templates, vectors, classes)
                ]
                print(f"{path.stem}, {wrong:.0%} wrong, {name}: {', '.join(cells)}", flush=True)


def draw_captions(texts: torch.Tensor, wrong: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw templates' texts [j, c, d] as captions of each class, a share of them those of a random class."""
    draw, (templates, count, _) = np.random.default_rng(0), texts.shape
    rows = np.concatenate([draw.choice(templates, CAPTIONS, replace=False) for _ in range(count)])
    classes = np.repeat(np.arange(count), CAPTIONS)
    shown = np.where(draw.random(len(classes)) < wrong, draw.integers(count, size=len(classes)), classes)
    return texts[rows, shown], torch.from_numpy(classes)


def mixed(templates: torch.Tensor, vectors: torch.Tensor, classes: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return class weights [c, d]: templates alone, and with captions in equal shares, by contrast, and with trust."""
    found = [("alone", templates)]
    for name, rounds in (("equal shares", 0), ("contrast", ROUNDS)):
        shares = contrast(vectors, classes, count=len(templates), scale=SCALE, rounds=rounds)
        means = class_means(vectors, classes, shares, count=len(templates))
        for weight in (0.25, WEIGHT):
            found.append((f"{name} {weight:g}", (1 - weight) * templates + weight * means))
        trusted = trust(templates, vectors, classes, shares, scale=SCALE, weight=WEIGHT)[:, None]
        found.append((f"{name}, trust", (1 - trusted) * templates + trusted * means))
    return found


def accuracy(weights: torch.Tensor, images: torch.Tensor, targets: torch.Tensor) -> float:
    """Return top-1 in percent."""
    return 100 * float(((images @ normalize(weights, dim=-1).T).argmax(1) == targets).double().mean())


if __name__ == "__main__":
    main()
