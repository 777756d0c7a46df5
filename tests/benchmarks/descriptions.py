"""What descriptions are worth beside random words, on the demo's validation set.

    python tests/benchmarks/descriptions.py

Top-1 in percent for head / tail / unseen / all: templates; eight descriptions of each class, without its name, mixed
into them by weight; and the waffle control of the same texts, mean of three seeds.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from rag_clip.classifiers.zero_shot import ZeroShot, zero_shots
from rag_clip.data import Features
from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.files.labels import read_labels
from rag_clip.models.open_clip import load_encoder
from rag_clip.prompts.control import waffle_prompts
from rag_clip.prompts.described import described_texts
from rag_clip.prompts.knowledge.sentences import Sentences
from rag_clip.prompts.mixed import mix
from rag_clip.prompts.templates import template_prompts, template_set

ASSETS = Path(str(files("rag_clip.demo"))) / "assets"
WEIGHTS = (0.25, 0.5, 0.75, 0.9)
SEEDS = (0, 1, 2)
DESCRIPTIONS = 8


def main() -> None:
    """Encode the photographs once, print a row for each set of prompts."""
    encoder, labels = load_encoder("demo", device="cpu"), read_labels(ASSETS / "labels.json")
    table = pq.read_table(ASSETS / "validation.parquet", columns=["image", "label"])
    images, truth = encoder.encode_images(table["image"].to_pylist()), table["label"].to_pylist()
    anchors = template_prompts(labels)
    sets = [anchors, template_prompts(labels, templates=template_set("general"))]
    described = [mix(anchors, described_texts(labels, [sentences()], weight=weight).texts) for weight in WEIGHTS]
    controls = [[waffle_prompts(prompts, seed=seed) for seed in SEEDS] for prompts in described]
    for name, classifier in zip(("own templates", "general templates"), zero_shots(sets, encoder), strict=True):
        show(name, [classifier], images, truth)
    for weight, prompts, waffled in zip(WEIGHTS, described, controls, strict=True):
        show(f"described {weight:g}", zero_shots([prompts], encoder), images, truth)
        show(f"waffle {weight:g}", zero_shots(waffled, encoder), images, truth)


def sentences() -> Sentences:
    """Describe each concept without naming it, as a file in CuPL's format would."""
    draw = np.random.default_rng(0)
    texts = {concept.name: tuple(describe(concept.design, draw) for _ in range(DESCRIPTIONS)) for concept in concepts()}
    return Sentences("cupl", texts, "cupl:demo")


def show(name: str, classifiers: list[ZeroShot], images: Features, truth: list[str]) -> None:
    """Print the accuracy per band and over all, mean over the classifiers."""
    band = {concept.name: concept.band for concept in concepts()}
    bands = np.array([band[label] for label in truth])
    rows = []
    for classifier in classifiers:
        found = [classifier.labels.names[row] for row in classifier(images).argmax(1).tolist()]
        right = torch.tensor([one == other for one, other in zip(found, truth, strict=True)]).float()
        rows.append([right[torch.from_numpy(bands == each)].mean() for each in BANDS] + [right.mean()])
    print(f"{name:<20}" + " / ".join(f"{100 * cell:.1f}" for cell in torch.tensor(rows).mean(0).tolist()))


if __name__ == "__main__":
    main()
