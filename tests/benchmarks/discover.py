"""How many of the names that are missing `discover` finds, and how pure what it finds is.

    python tests/benchmarks/discover.py INDEX [--held-out SHARE] [--seeds N] [--least N] [--recipe NAME] [--rejected]

INDEX has the captions of the micro world and its encoder (`rag-clip index build rag_clip/demo/assets/corpus.parquet
--index INDEX --model demo`); the images are its test photographs. With `--held-out 1` there are no classes at all;
otherwise prompts of the classes that stay are made by the recipe, and take part. With `--rejected` they do not, and
names are found for the images that `classify --open --reject` would reject, as `discover --predictions` does. Prints
per seed: names found, how many of them are names of classes held out, word for word, of how many; the share of images
of classes held out that get a found name rather than a present class, and of the other images that keep a present
class; and purity, the share of the images with a found name whose class is the commonest one of that name.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from pathlib import Path

import torch

from rag_clip import load_encoder, open_store, read_labels
from rag_clip.classifiers.novelty import OpenWorld
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.corpus.counts.tokens import spoken
from rag_clip.data import LabelSet
from rag_clip.images.labelled import read_labelled
from rag_clip.images.opening import Images
from rag_clip.pipelines.discover import frequencies_of, nearest_captions, spellings_of
from rag_clip.pipelines.open_world import prepare_rejection, read_negatives
from rag_clip.progress import Progress, silent
from rag_clip.prompts.enhance import enhance
from rag_clip.prompts.recipe import load_recipe
from rag_clip.refinement.discovery import Neighbours, Present, find_names

ASSETS = Path(__file__).parents[2] / "rag_clip/demo/assets"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index")
    parser.add_argument("--held-out", type=float, default=1 / 3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--least", type=float, default=4)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--rejected", action="store_true")
    options = parser.parse_args()
    encoder, labels = load_encoder("demo", device="cpu"), read_labels(ASSETS / "labels.json")
    labelled = read_labelled(Images([ASSETS / "test.parquet"]), labels, encoder=encoder)
    images, targets = labelled.features.pooled, labelled.targets
    assert isinstance(targets, torch.Tensor)
    with open_store(options.index) as store:
        nearest = nearest_captions(images, store, Progress())
        candidates = nearest.candidates()
        for seed in range(options.seeds):
            missing = set(random.Random(seed).sample(range(len(labels)), round(options.held_out * len(labels))))
            stay = [row for row in range(len(labels)) if row not in missing]
            present, rows = None, torch.arange(len(images))
            phrases = list(candidates)
            if stay:
                some = LabelSet(tuple(labels.names[row] for row in stay), templates=labels.templates)
                prompts = enhance(some, encoder=encoder, recipe=load_recipe(options.recipe), store=store)
                spellings = spellings_of(some, candidates)
                text = zero_shot(prompts, encoder)
                present = Present(text.weights, spellings)
                if options.rejected:
                    world = OpenWorld(ASSETS / "corpus.parquet")
                    negatives = read_negatives(world, some, report=silent)
                    rejection, _ = prepare_rejection(
                        world, negatives, text, prompts, encoder, shots=None, report=silent
                    )
                    rows, present = (rejection.novelty(images) > rejection.threshold).nonzero()[:, 0], None
                phrases = list(dict.fromkeys([*candidates, *(phrase for group in spellings for phrase in group)]))
            near = Neighbours(nearest.rows[rows.numpy()], nearest.texts, nearest.vectors)
            phrases = near.candidates() if options.rejected else phrases
            often = frequencies_of(phrases, store, Progress())
            found = find_names(images[rows], near, often, scale=encoder.scale, least=options.least, present=present)
            names = {" ".join(spoken(labels.names[row])) for row in missing}
            right = sum(name.phrase in names for name in found.names)
            assigned = torch.full((len(images),), -1)
            assigned[rows] = found.assigned + (len(stay) if options.rejected else 0)
            new = (assigned >= len(stay)).tolist()
            novel = [int(target) in missing for target in targets.tolist()]
            groups: defaultdict[int, Counter[int]] = defaultdict(Counter)
            for place, target, is_new in zip(assigned.tolist(), targets.tolist(), new, strict=True):
                if is_new:
                    groups[place][int(target)] += 1
            pure = sum(group.most_common(1)[0][1] for group in groups.values()) / max(sum(new), 1)
            caught = sum(map(min, new, novel)) / max(sum(novel), 1)
            kept = sum(not one and not other for one, other in zip(new, novel, strict=True)) / max(
                len(novel) - sum(novel), 1
            )
            print(
                f"seed {seed}: {len(found.names)} names, {right} of {len(names)} held out; images of these with a found"
                f" name {caught:.1%}, others with a present class {kept:.1%}; purity {pure:.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
