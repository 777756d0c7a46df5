"""A folder with everything that the pages show, made once per process by the bundled model."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from inputs.folders import copy_folder
from inputs.photographs import photographs
from inputs.stores import fill_index
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.demo.concepts import concepts
from rag_clip.files.prompts import write_prompts
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running
from rag_clip.prompts.templates import template_prompts

NAMES = tuple(concept.name for concept in concepts()[:6])
HOSTILE = '<script>alert("x")</script>'
CAPTIONS = ["a red flag", "A red flag!", "two boats on the sea", "a kite", f"{HOSTILE} kite", "blue flag of silk"]


@cache
def _made() -> Path:
    folder = Path(mkdtemp(prefix="served-"))
    encoder = load_encoder("demo", device="cpu")
    pictures = photographs(6) * 2
    table = pa.table({"image": pictures, "label": list(NAMES) * 2})
    pq.write_table(table, folder / "photographs.parquet", row_group_size=5)
    prompts = template_prompts(LabelSet(NAMES), templates=["a photo of a {}.", "a picture of {}", "{}"])
    prompts = Prompts(prompts.labels, prompts.texts, {**prompts.provenance, "encoder": encoder_facts(encoder)})
    write_prompts(prompts, folder / "prompts.parquet")
    hostile = LabelSet((HOSTILE, *NAMES[1:]))
    texts = ((PromptText(f"a photo of {HOSTILE}", 1.0, source=HOSTILE),), *prompts.texts[1:])
    write_prompts(Prompts(hostile, texts, prompts.provenance), folder / "odd <b>name.json")
    for name, file in (("predictions", "prompts.parquet"), ("hostile", "odd <b>name.json")):
        classify(
            folder / "photographs.parquet",
            prompts=folder / file,
            output=folder / f"{name}.parquet",
            encoder=encoder,
            running=Running(0),
        )
    other = template_prompts(LabelSet(NAMES), templates=["{}"])
    write_prompts(
        Prompts(other.labels, other.texts, {**other.provenance, "encoder": encoder_facts(encoder)}),
        folder / "bare.json",
    )
    for name, file in (("before", "bare.json"), ("after", "prompts.parquet")):
        evaluate(
            folder / "photographs.parquet",
            prompts=folder / file,
            output=folder / f"{name}.parquet",
            encoder=encoder,
            running=Running(0),
        )
    fill_index(folder / "captions", CAPTIONS, encoder)
    pairs = pa.table(
        {
            "image": pictures[:4],
            "caption": [f"a sign called {name}" for name in NAMES[:4]],
            "url": ["pairs.parquet#row=0", "signs/one.jpg", "https://example.org/x.jpg", "../outside.jpg"],
        }
    )
    pq.write_table(pairs, folder / "pairs.parquet")
    (folder / "signs").mkdir()
    (folder / "signs" / "one.jpg").write_bytes(pictures[1])
    index_images(
        folder / "pairs.parquet",
        index=folder / "pictures",
        shards=folder.with_name(f"{folder.name}-shards"),
        encoder=encoder,
        noise=False,
        running=Running(0),
    )
    (folder / "notes.txt").write_text("not shown")
    return folder


def encoder_facts(encoder: Any) -> dict[str, Any]:
    """Return what prompts record of their encoder."""
    return asdict(encoder.fingerprint)


def served_folder(place: Path) -> Path:
    """Copy the folder to `place`, since pages write into it."""
    copy_folder(_made(), place)
    return place
