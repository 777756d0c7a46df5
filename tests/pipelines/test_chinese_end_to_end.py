"""Chinese from pairs to predictions: a text tower and a tokenizer learned for stored image vectors (Wukong's way)."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from inputs.pairs import write_pairs
from inputs.pictures import picture
from rag_clip.data import LabelSet
from rag_clip.pipelines.adapt import Training, adapt_encoder
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.enhance import enhance
from rag_clip.pipelines.running import Running
from rag_clip.store import load_schema

COLOURS = {"red": "红色", "green": "绿色", "blue": "蓝色"}
FRAMES = ("一个{}方块", "{}的方块图片", "这是{}的", "墙上有一个{}方块")


def test_from_chinese_pairs_to_predictions(tmp_path: Path) -> None:
    shown = [picture(colour) for colour in COLOURS for _ in FRAMES]
    captions: list[str | None] = [frame.format(name) for name in COLOURS.values() for frame in FRAMES]
    pairs = write_pairs(tmp_path / "pairs.parquet", shown, captions)
    training = Training("image", "text", 40, steps=40, batch_size=12, rate=3e-3)
    folder, quiet = tmp_path / "adapted", Running(0)
    adapt_encoder(pairs, output=folder, encoder="demo", training=training, running=quiet)

    model = f"local-dir:{folder}"
    corpus = tmp_path / "captions.parquet"
    pq.write_table(pa.table({"caption": captions}), corpus)
    schema = load_schema()
    text = schema.payload["text"].model_copy(update={"tokenizer": "multilingual"})
    schema = schema.model_copy(update={"payload": {**schema.payload, "text": text}})
    build_index(corpus, index=tmp_path / "index", encoder=model, schema=schema, running=quiet)
    labels = LabelSet(tuple(COLOURS.values()), templates=("一张{}的照片", "这是{}的"))
    prompts = enhance(labels, index=tmp_path / "index", encoder=model)

    images = tmp_path / "images.parquet"
    pq.write_table(pa.table({"image": [picture(colour) for colour in COLOURS]}), images)
    classify(images, prompts=prompts, output=tmp_path / "predictions.parquet", running=quiet)
    assert pl.read_parquet(tmp_path / "predictions.parquet")["label"].to_list() == list(COLOURS.values())
