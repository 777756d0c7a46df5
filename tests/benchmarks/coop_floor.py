"""CoOp and its floor in the micro world.

    python tests/benchmarks/coop_floor.py [--bands BAND ...] [--seeds N] [--shots K ...]

Twenty names of the bands, equally many of each, with K photographs; photographs of the test and validation sets of
these names are classified. Prints top-1 in percent of the texts, of CoOp as published, and of CoOp with the floor: mean
gain / worst seed over the texts, which are the default templates. A seed draws names and photographs.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from importlib.resources import files

import polars as pl
import torch
from PIL import Image

from rag_clip.classifiers.heads import build_head
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features, LabelSet, Support
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.demo.make import encode_jpeg, label_set
from rag_clip.demo.photograph import photograph
from rag_clip.demo.train import textures
from rag_clip.models.open_clip import load_encoder
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Classifier, Encoder

NAMES = 20


def main() -> None:
    """Print a row for each number of shots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bands", nargs="+", default=["head"], choices=BANDS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4])
    given = parser.parse_args()
    encoder = load_encoder("demo", device="cpu")
    for shots in given.shots:
        rows = torch.tensor([measure(encoder, given.bands, shots, seed) for seed in range(given.seeds)])  # [seeds, 4]
        texts, *gains = rows[:, 0], rows[:, 1] - rows[:, 0], rows[:, 2] - rows[:, 0]
        shown = " ".join(f"{100 * gain.mean():+.1f}/{100 * gain.min():+.1f}" for gain in gains)
        print(f"{shots} shots: texts {100 * texts.mean():.1f}, as published, floor {shown}", end="")
        print(f"; strengths {rows[:, 3].tolist()}", flush=True)


def measure(encoder: Encoder, bands: Sequence[str], shots: int, seed: int) -> list[float]:
    """Return the accuracy of texts, CoOp and CoOp with the floor, and the strength of the last."""
    draw = torch.Generator().manual_seed(seed)
    members = [[row for row, concept in enumerate(concepts()) if concept.band == band] for band in bands]
    each = NAMES // len(bands)
    chosen = [group[row] for group in members for row in torch.randperm(len(group), generator=draw)[:each].tolist()]
    labels = LabelSet(tuple(label_set().names[row] for row in chosen))
    text = zero_shot(template_prompts(labels), encoder)
    support = shoot(encoder, labels, chosen, shots, seed)
    heads = [build_head("coop", support, encoder=encoder, floor=floor)(text) for floor in (False, True)]
    features, targets = photographs(encoder, chosen)
    found = [right(each, features, targets) for each in (text, *heads)]
    return [*found, heads[1].strength]  # type: ignore[attr-defined]


def shoot(encoder: Encoder, labels: LabelSet, chosen: list[int], shots: int, seed: int) -> Support:
    """Make a support set of so many photographs of each name, with render seeds of training."""
    drawn = textures([concepts()[row].design for row in chosen]).repeat(shots, 1, 1, 1)
    shown = photograph(drawn, seed=1000 + seed).permute(0, 2, 3, 1).numpy()
    images = [Image.open(io.BytesIO(encode_jpeg(pixels))) for pixels in shown]
    targets = torch.eye(len(chosen)).repeat(shots, 1)
    references = tuple(map(str, range(len(targets))))
    features = encoder.encode_images(images).pooled
    return Support(labels, features, targets, torch.ones(len(targets)), ("shot",) * len(targets), references)


def photographs(encoder: Encoder, chosen: list[int]) -> tuple[Features, torch.Tensor]:
    """Return the features of the bundled photographs of the names, and their classes."""
    assets = files("rag_clip.demo") / "assets"
    table = pl.concat(
        [pl.read_parquet(str(assets / f"{part}.parquet")).select("image", "label") for part in ("test", "validation")]
    )
    place = {label_set().names[row]: number for number, row in enumerate(chosen)}
    kept = table.filter(pl.col("label").is_in(list(place)))
    targets = torch.tensor([place[name] for name in kept["label"].to_list()])
    return encoder.encode_images(kept["image"].to_list()), targets


def right(classifier: Classifier, features: Features, targets: torch.Tensor) -> float:
    """Return the share of images that the classifier gets right."""
    return float((classifier(features).argmax(1) == targets).double().mean())


if __name__ == "__main__":
    main()
