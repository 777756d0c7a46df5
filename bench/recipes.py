"""What each part of the demo's recipe is worth, on the validation photographs: `python bench/recipes.py [--full]`.

Top-1 in percent for head / tail / unseen / all, by filter, by whether class names stay in the captions, and by weight
of the captions; and the ceiling, the mean of eight descriptions without a name. `--full` adds dense and lexical search.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from rag_clip.pipelines.captions import build_index
from torch.nn.functional import normalize

from rag_clip.classifiers.zero_shot import ZeroShot, zero_shots
from rag_clip.data import Features
from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.encoder import load_encoder
from rag_clip.enhance import Settings, enhance
from rag_clip.labels import read_labels
from rag_clip.prompts.retrieved import weigh_context
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Encoder
from rag_clip.store import open_store

ASSETS = Path(str(files("rag_clip.demo"))) / "assets"
WEIGHTS = (0.25, 0.5, 0.75, 0.9)


def main() -> None:
    """Index the bundled corpus in a temporary folder, try every recipe, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    searches = ("dense", "lexical", "hybrid") if parser.parse_args().full else ("hybrid",)
    encoder, labels = load_encoder("demo", device="cpu"), read_labels(ASSETS / "labels.json")
    table = pq.read_table(ASSETS / "validation.parquet", columns=["image", "label"])
    images, truth = encoder.encode_images(table["image"].to_pylist()), table["label"].to_pylist()
    show("templates", zero_shots([template_prompts(labels)], encoder)[0], images, truth)
    show("ceiling: descriptions", described(encoder), images, truth)
    with tempfile.TemporaryDirectory() as folder:
        build_index([ASSETS / "corpus.parquet"], index=Path(folder) / "index", encoder=encoder)
        with open_store(Path(folder) / "index", encoder=encoder.fingerprint) as store:
            for search, keep, names in product(searches, ("token", "phrase"), ("kept", "dropped")):
                settings = Settings(search=search, keep=keep, names=names)
                prompts = enhance(labels, encoder=encoder, store=store, settings=settings)
                variants = [weigh_context(prompts, weight) for weight in WEIGHTS]
                for weight, classifier in zip(WEIGHTS, zero_shots(variants, encoder), strict=True):
                    show(f"{search}, {keep} filter, names {names}, {weight:g}", classifier, images, truth)


def described(encoder: Encoder) -> ZeroShot:
    """Average eight descriptions of each concept, none of which names it."""
    draw = np.random.default_rng(0)
    texts = [describe(concept.design, draw) for concept in concepts() for _ in range(8)]
    means = encoder.encode_text(texts).view(len(concepts()), 8, -1).mean(1)
    return ZeroShot(read_labels(ASSETS / "labels.json"), normalize(means, dim=-1), encoder.scale)


def show(name: str, classifier: ZeroShot, images: Features, truth: list[str]) -> None:
    """Print the accuracy per band and over all."""
    band = {concept.name: concept.band for concept in concepts()}
    found = [classifier.labels.names[row] for row in classifier(images).argmax(1).tolist()]
    right = torch.tensor([one == other for one, other in zip(found, truth, strict=True)]).float()
    bands = np.array([band[label] for label in truth])
    cells = [right[torch.from_numpy(bands == band)].mean() for band in BANDS] + [right.mean()]
    print(f"{name:<46}" + " / ".join(f"{100 * float(cell):.1f}" for cell in cells))


if __name__ == "__main__":
    main()
