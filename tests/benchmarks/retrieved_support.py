"""What support found for names is worth on the micro world: whose images it is, and what heads make of it.

`python tests/benchmarks/retrieved_support.py FOLDER` (about 5 minutes on two cores) writes photographs for the
bundled captions, indexes them, and prints for each way to ask and to filter: images per class, the share that shows
its class, classes without images, and top-1 on the validation photographs of zero-shot, and of Tip-Adapter and
priming at their defaults. Then it puts 36 of these photographs and changed copies of 36 others into an index and
prints what containment reports.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image

from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.priming import PrimingSettings
from rag_clip.classifiers.tip_adapter import TipAdapterSettings
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.corpus.cleaning import load_cleaning
from rag_clip.data import Prompts, Support
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.demo.pictures import named_captions, shown_concepts, write_pictures
from rag_clip.files.labels import read_labels
from rag_clip.images.labelled import Labelled, read_labelled
from rag_clip.images.views import copies_of
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.support_retrieve import retrieve_support
from rag_clip.prompts.enhance import enhance
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Encoder
from rag_clip.store import open_store
from rag_clip.support.candidates import find_candidates
from rag_clip.support.concentrate import Concentration, concentrate
from rag_clip.support.retrieved import ImageSearch, retrieved_support

ASSETS = files("rag_clip.demo") / "assets"
SETTINGS = {
    "all filters": Concentration(),
    "noise ignored": Concentration(most_noise=1),
    "least agreement 0": Concentration(most_noise=1, least_agreement=0),
    "nothing filtered": Concentration(most_noise=1, judge="nothing", near_cosine=1),
    "judged by images": Concentration(most_noise=1, judge="images"),
}


def prepare(folder: Path, encoder: Encoder) -> Prompts:
    """Write and index captions and photographs, where that is not done, and return the default prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pictures.parquet").exists():
        write_pictures(folder / "pictures.parquet")
    index_images(
        [folder / "pictures.parquet"], index=folder / "images", encoder=encoder, cleaning=load_cleaning("none")
    )
    build_index([str(ASSETS / "corpus.parquet")], index=folder / "captions", encoder=encoder)
    with open_store(folder / "captions") as store:
        return enhance(read_labels(str(ASSETS / "labels.json")), encoder=encoder, store=store)


def score(logits: torch.Tensor, labelled: Labelled) -> str:
    """Return top-1 in percent by band and over all."""
    bands = [concept.band for concept in concepts()]
    targets = one_label("test set", labelled.targets)
    right = (logits.argmax(1) == targets).float()
    of = [bands[row] for row in targets.tolist()]
    parts = [right[torch.tensor([each == band for each in of])].mean() for band in BANDS]
    return " ".join(f"{100 * float(part):5.1f}" for part in [*parts, right.mean()])


def contaminate(folder: Path, encoder: Encoder, prompts: Prompts) -> None:
    """Index the photographs with 72 of the validation photographs among them, and print what is found."""
    test = pl.read_parquet(str(ASSETS / "validation.parquet"))
    changed = []
    for row, content in enumerate(test["image"][36:72]):
        buffer = io.BytesIO()
        copies_of(Image.open(io.BytesIO(content)).convert("RGB"))[row % 5].save(buffer, "PNG")
        changed.append(buffer.getvalue())
    planted = [*test["image"][:36], *changed]
    rows = {"image": planted, "caption": [f"a photo of {name}" for name in test["label"][:72]]}
    pl.DataFrame(rows).write_parquet(folder / "planted.parquet")
    index_images(
        [folder / "pictures.parquet", folder / "planted.parquet"], index=folder / "dirty", encoder=encoder,
        cleaning=load_cleaning("none"), shards=folder / "images.shards",
    )  # fmt: skip
    for name in ("images", "dirty"):
        summary = retrieve_support(
            prompts, output=folder / "s.parquet", index=str(folder / name), encoder=encoder, search="captions",
            against=[str(ASSETS / "validation.parquet")],
        )  # fmt: skip
        print(name, summary.containment)


def main(folder: Path) -> None:
    """Print the table and the containment."""
    encoder = load_encoder("demo", device="cpu")
    prompts = prepare(folder, encoder)
    labelled = read_labelled(
        [str(ASSETS / "validation.parquet")], prompts.labels, encoder=encoder, features_dir=folder / "features"
    )
    pictures = pl.read_parquet(folder / "pictures.parquet", columns=["image"])["image"]
    digests = [hashlib.sha256(image).hexdigest() for image in pictures]
    shown = dict(zip(digests, shown_concepts(named_captions(24)), strict=True))
    for title, asked in (("templates", template_prompts(prompts.labels)), ("enhanced", prompts)):
        classifier = zero_shot(asked, encoder, allow_other_encoder=True)
        print(f"{title}: zero-shot {score(classifier(labelled.features), labelled)} ({', '.join(BANDS)}, all)")
        for search in ("class", "texts", "captions"):
            with open_store(folder / "images") as store:
                found = find_candidates(asked, classifier, store, encoder, asked=ImageSearch(search, 100))
            for name, settings in SETTINGS.items():
                done = concentrate(found, classifier, settings)
                held = found.take(done.rows)
                right = np.mean([shown[digest] == row for digest, row in zip(held.sha256, held.classes, strict=True)])
                support: Support = retrieved_support(prompts.labels, held, limit=settings.limit)
                support = replace(support, provenance={})
                heads = [
                    score(head.build(classifier, support)(labelled.features), labelled)
                    for head in (TipAdapterSettings(), PrimingSettings())
                ]
                print(
                    f"  {search:8} {name:18} {len(support):5} images, {100 * right:3.0f} % right, "
                    f"{len(support.missing):3} classes without; tip {heads[0]}; priming {heads[1]}",
                    flush=True,
                )
    contaminate(folder, encoder, prompts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
