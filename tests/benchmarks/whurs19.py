"""Every head on genuine features of WHU-RS19: `python tests/benchmarks/whurs19.py FOLDER [--heads ...] [--floor]`.

FOLDER holds whurs19_*.npz, of which `--models` are read. Top-1 in percent, mean of ten seeds, at 1 / 2 / 4 / 8
/ 16 shots of each of the 19 classes: first without validation images, then with min(k, 4) more of each class. Both are
scored on the images that neither has. Then with four shots of ten classes drawn by chance and none of the other nine:
photographs of the ten, and of the nine. The second row is the gain over zero-shot, mean / worst seed, at each number of
shots. Text is the ensemble of 106 templates. Heads of two encoders see `--second`, another of the models, too.
With `--floor`, evidence decides how much of a head is used (`rag_clip/classifiers/floor.py`). With `--refine`, the
images that are scored are evidence too, without their labels (`rag_clip/refinement/batch.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch

from rag_clip.classifiers.anchored import held_evidence
from rag_clip.classifiers.heads import HEADS as NAMES
from rag_clip.classifiers.heads import build_head
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.protocols import Classifier
from rag_clip.refinement.batch import refine

MODELS = ("CLIP_ViTB32", "CLIP_ViTL14")
HEADS = ("priming", "gaussian", "ridge", "tip_adapter", "tip_adapter_f", "tip_x")
SHOTS = (1, 2, 4, 8, 16)
SCALE = 100.0  # of OpenAI's CLIP


class Split(NamedTuple):
    """Rows of shots, validation and test images."""

    shots: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor


class Images(NamedTuple):
    """Features [n, d], labels [n], the text classifier, and features by the second encoder [n, e] if there is one."""

    features: torch.Tensor
    labels: torch.Tensor
    text: ZeroShot
    second: torch.Tensor | None = None

    def take(self, rows: torch.Tensor) -> Features:
        """Return the features of the rows."""
        others = {} if self.second is None else {"second": self.second[rows]}
        return Features(self.features[rows], others=others)


def main() -> None:
    """Print two rows per model and head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--heads", nargs="+", default=HEADS, choices=list(NAMES))
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--second")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--refine", action="store_true")
    given = parser.parse_args()
    seeds = range(given.seeds)
    shots = "shots " + " / ".join(map(str, SHOTS))
    print(f"{'model':<18}{'head':<16}{shots:<38}{'with validation':<38}{'ten / nine':<14}ms a fit")
    for model in given.models:
        images = read(given.folder / f"whurs19_{model}.npz")
        if given.second is not None:
            images = images._replace(second=read(given.folder / f"whurs19_{given.second}.npz").features)
        zero_shot = accuracy(images, images.text, torch.arange(len(images.labels)))
        halves = show(measure_half(images, lambda text, support: text, seeds))
        print(f"{model:<18}{'zero_shot':<16}{100 * zero_shot:<76.1f}{halves}")
        for head in given.heads:
            build = load(head, floor=given.floor)
            started = perf_counter()
            rows = [
                [measure(images, build, shots, held, seeds, refined=given.refine) for shots in SHOTS]
                for held in (False, True)
            ]
            seconds = (perf_counter() - started) / (2 * len(SHOTS) * len(seeds))
            columns = "".join(f"{show([mean for mean, _, _ in row]):<38}" for row in rows)
            columns += f"{show(measure_half(images, build, seeds)):<14}"
            print(f"{model:<18}{head:<16}{columns}{1000 * seconds:.0f}")
            gains = [" ".join(f"{100 * mean:+.1f}/{100 * worst:+.1f}" for _, mean, worst in row) for row in rows]
            print(f"{'':<18}{'gain / worst':<16}{gains[0]:<58}{gains[1]}", flush=True)


def show(shares: Sequence[float]) -> str:
    """Write shares in percent."""
    return " / ".join(f"{100 * share:.1f}" for share in shares)


def read(path: Path) -> Images:
    """Read features and the ensemble, which is the last row of the text."""
    data = np.load(path)
    features, text = (
        torch.nn.functional.normalize(torch.from_numpy(rows.astype(np.float32)), dim=-1)
        for rows in (data["image"], data["text"][-1])
    )
    classifier = ZeroShot(LabelSet(tuple(data["classes"].tolist())), text, SCALE)
    return Images(features, torch.from_numpy(data["label"]), classifier)


def load(head: str, *, floor: bool) -> Callable[..., Classifier]:
    """Return what builds a head, called as its builder is."""

    def build(text: ZeroShot, support: Support, validation: Validation | None = None) -> Classifier:
        return build_head(head, support, encoder=None, validation=validation, floor=floor)(text)

    return build


def split(labels: torch.Tensor, shots: int, seed: int) -> Split:
    """Draw k images of each class, then min(k, 4) others; the rest are for the test."""
    draw = np.random.default_rng(seed)
    rows = [
        torch.from_numpy(draw.permutation(np.flatnonzero(labels.numpy() == name)))
        for name in range(int(labels.max()) + 1)
    ]
    held = shots + min(shots, 4)
    parts = [[row[:shots] for row in rows], [row[shots:held] for row in rows], [row[held:] for row in rows]]
    return Split(*(torch.cat(part) for part in parts))


def measure(
    images: Images, build: Callable[..., Classifier], shots: int, held: bool, seeds: Sequence[int], *, refined: bool
) -> tuple[float, float, float]:
    """Return the accuracy over the test images and the gain over zero-shot, means of the seeds, and the least gain."""
    names = images.text.labels
    found, gains = [], []
    for seed in seeds:
        rows = split(images.labels, shots, seed)
        support = gather(images, rows.shots)
        validation = Validation(images.take(rows.validation), names, images.labels[rows.validation])
        classifier = build(images.text, support, validation=validation if held else None)
        if refined:
            beside = images.take(rows.test)
            classifier = refine(classifier, beside, images.text.weights, held=held_evidence(classifier))
        found.append(accuracy(images, classifier, rows.test))
        gains.append(found[-1] - accuracy(images, images.text, rows.test))
    return sum(found) / len(found), sum(gains) / len(gains), min(gains)


def measure_half(images: Images, build: Callable[..., Classifier], seeds: Sequence[int]) -> list[float]:
    """Return the accuracy over photographs of classes with four shots and of those with none, mean of the seeds."""
    found = []
    for seed in seeds:
        rows = split(images.labels, 4, seed)
        drawn = torch.randperm(len(images.text.labels), generator=torch.Generator().manual_seed(seed))
        held = torch.isin(images.labels, drawn[:10])
        classifier = build(images.text, gather(images, rows.shots[held[rows.shots]]))
        found.append([accuracy(images, classifier, rows.test[held[rows.test] == there]) for there in (True, False)])
    return [sum(column) / len(column) for column in zip(*found, strict=True)]


def gather(images: Images, rows: torch.Tensor) -> Support:
    """Make a support set of the rows."""
    targets = torch.nn.functional.one_hot(images.labels[rows], len(images.text.labels)).float()
    references = tuple(map(str, rows.tolist()))
    origin = ("shot",) * len(rows)
    given = images.take(rows)
    trust = torch.ones(len(rows))
    return Support(images.text.labels, given.pooled, targets, trust, origin, references, others=given.others)


def accuracy(images: Images, classifier: Classifier, rows: torch.Tensor) -> float:
    """Return the share of the rows that the classifier gets right."""
    predicted = classifier(images.take(rows)).argmax(1)
    return float((predicted == images.labels[rows]).double().mean())


if __name__ == "__main__":
    main()
