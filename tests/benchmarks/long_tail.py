"""BALLAD on a long-tailed cut of the micro world: `python tests/benchmarks/long_tail.py [--seeds N] [--names N]`.

Names in the order in which they are talked about, so that those the encoder knows least have the fewest photographs:
200 of the first, 2 of the last, falling by a constant factor. Top-1 in percent of the test photographs of all names and
of those with many (over 100), medium (20 to 100) and few (under 20) training photographs; mean and standard deviation
over draws of the training photographs. Validation photographs choose the probe's penalty and the adapter's epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from time import perf_counter
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch.nn.functional import cross_entropy, one_hot

from rag_clip.classifiers.ballad import BalladSettings
from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.demo.concepts import concepts
from rag_clip.demo.draw import draw_design
from rag_clip.demo.make import TEMPLATES, encode_jpeg
from rag_clip.demo.photograph import photograph
from rag_clip.models.decode import decode_image
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.towers import TwoTowers, two_towers
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Classifier
from rag_clip.training.adapt import Manner, adapt
from rag_clip.training.batches import Examples, Head
from rag_clip.training.loop import Schedule
from rag_clip.training.objectives.labels import Labels

MOST, FEWEST = 200, 2
TRAINING_SEED = 2**62 + 5000  # of no bundled photograph
PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3)
# The authors' SGD at 1e-5 is for 11,300 steps of a large model; this is what 60 steps of a small one take.
PHASE_A = Schedule(3, 128, 3e-4, "adamw", weight_decay=0.0)


class Photographs(NamedTuple):
    """Pixels uint8 [n, 3, height, width] and classes int64 [n]."""

    pixels: torch.Tensor
    targets: torch.Tensor


def main() -> None:
    """Print a row per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--names", type=int, default=60)
    asked = parser.parse_args()
    encoder = two_towers(load_encoder("demo", device="cpu", precision="fp32"))
    labels, counts = long_tail(asked.names)
    test, validation = bundled(encoder, labels, "test"), bundled(encoder, labels, "validation")
    rows: dict[str, list[list[float]]] = {}
    for seed in range(asked.seeds):
        training = render(encoder, labels, counts, seed)
        start = perf_counter()
        further = phase_a(encoder, labels, training)
        print(f"draw {seed}: {len(training.targets)} photographs, phase A {perf_counter() - start:.0f} s", flush=True)
        for phase, towers in (("", encoder), ("phase A, ", further)):
            for name, classifier in heads(towers, labels, training, validation):
                rows.setdefault(f"{phase}{name}", []).append(scores(classifier, encode(towers, test), test, counts))
    print(f"{'':<28}{'many':>14}{'medium':>14}{'few':>14}{'all':>14}")
    for name, found in rows.items():
        cells = (f"{np.mean(column):.1f} ± {np.std(column):.1f}" for column in zip(*found, strict=True))
        print(f"{name:<28}" + "".join(f"{cell:>14}" for cell in cells))


def phase_a(encoder: TwoTowers, labels: LabelSet, training: Photographs) -> TwoTowers:
    """Train both towers on whole photographs against the texts of the names, encoded again in every step."""
    prompts = template_prompts(labels, templates=["a photo of a {}."])
    groups = tuple(tuple(text.text for text in group) for group in prompts.texts)
    head = Head(labels, zero_shot(prompts, encoder).weights, groups)
    examples = Examples(training.pixels.__getitem__, targets=training.targets, head=head)
    schedule = replace(PHASE_A, steps=PHASE_A.epochs * -(-len(training.targets) // PHASE_A.batch_size))
    return adapt(encoder, examples, Labels(head="texts"), manner=Manner(least_area=1.0), schedule=schedule).encoder


def long_tail(names: int) -> tuple[LabelSet, torch.Tensor]:
    """Return evenly spaced names of the world, most talked about first, and the number of photographs of each."""
    ranked = sorted(concepts(), key=lambda concept: -concept.frequency)
    chosen = [ranked[place] for place in np.linspace(0, len(ranked) - 1, names).round().astype(int)]
    counts = MOST * (FEWEST / MOST) ** torch.linspace(0, 1, names)
    return LabelSet(tuple(concept.name for concept in chosen), templates=TEMPLATES), counts.round().long()


def render(encoder: TwoTowers, labels: LabelSet, counts: torch.Tensor, seed: int) -> Photographs:
    """Photograph each name as often as it has photographs."""
    designs = {concept.name: concept.design for concept in concepts()}
    textures = torch.from_numpy(np.stack([draw_design(designs[name]) for name in labels.names])).permute(0, 3, 1, 2)
    targets = torch.repeat_interleave(counts)
    seen = [
        photograph(textures[part], seed=TRAINING_SEED + 1000 * seed + place)
        for place, part in enumerate(torch.split(targets, 512))
    ]
    return Photographs(
        to_pixels(encoder, [encode_jpeg(image.permute(1, 2, 0).numpy()) for image in torch.cat(seen)]), targets
    )


def bundled(encoder: TwoTowers, labels: LabelSet, name: str) -> Photographs:
    """Read the bundled photographs of the names."""
    table = pl.read_parquet(str(files("rag_clip.demo") / "assets" / f"{name}.parquet"))
    table = table.filter(pl.col("label").is_in(labels.names))
    targets = torch.tensor([labels.names.index(label) for label in table["label"]])
    return Photographs(to_pixels(encoder, table["image"].to_list()), targets)


def to_pixels(encoder: TwoTowers, images: list[bytes]) -> torch.Tensor:
    """Decode and preprocess images."""
    return torch.from_numpy(np.stack([encoder.preprocess(decode_image(image)) for image in images])).permute(0, 3, 1, 2)


def encode(encoder: TwoTowers, images: Photographs) -> Features:
    """Embed photographs in batches."""
    return Features(torch.cat([encoder.encode_pixels(part).pooled for part in torch.split(images.pixels, 128)]))


def heads(
    encoder: TwoTowers, labels: LabelSet, training: Photographs, validation: Photographs
) -> Iterator[tuple[str, Classifier]]:
    """Build zero-shot, the linear probe and phase B on the features of an encoder."""
    text = zero_shot(template_prompts(labels), encoder)
    features, count = encode(encoder, training).pooled, len(training.targets)
    names = tuple(str(row) for row in range(count))
    targets = one_hot(training.targets, len(labels)).float()
    support = Support(labels, features, targets, torch.ones(count), ("shot",) * count, names)
    held = Validation(encode(encoder, validation), labels, validation.targets)
    yield "zero-shot", text
    yield "linear probe", linear_probe(text, support, held)
    yield "phase B", BalladSettings().build(text, support, validation=held)


def linear_probe(text: ZeroShot, support: Support, validation: Validation) -> ZeroShot:
    """Fit a linear classifier from zero by L-BFGS, its penalty chosen on validation images."""
    found = [probe(text, support, penalty) for penalty in PENALTIES]
    targets = one_label("validation set", validation.targets)
    return max(
        found,
        key=lambda each: float((each(validation.features).argmax(1) == targets).float().mean()),
    )


def probe(text: ZeroShot, support: Support, penalty: float) -> ZeroShot:
    """Fit a linear classifier at one penalty on its squared weights."""
    weights = torch.zeros_like(text.weights).requires_grad_()
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = cross_entropy(text.scale * support.features @ weights.T, support.shares)
        value = value + penalty * text.scale**2 * weights.square().sum()
        torch.autograd.backward(value)
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return ZeroShot(text.labels, weights.detach(), text.scale)


def scores(classifier: Classifier, features: Features, images: Photographs, counts: torch.Tensor) -> list[float]:
    """Return top-1 in percent for many, medium, few and all."""
    right = (classifier(features).argmax(1) == images.targets).float()
    shown = counts[images.targets]
    groups = (shown > 100, (shown >= 20) & (shown <= 100), shown < 20, shown > 0)
    return [100 * float(right[group].mean()) for group in groups]


if __name__ == "__main__":
    main()
