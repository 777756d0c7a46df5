"""From pairs to masks on the command line: adapt by pacl or filip, then classify and segment by what was learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from inputs.command_line import run
from inputs.photographs import photographs
from rag_clip.demo.concepts import concepts
from rag_clip.files.rle import decode_mask

NAMES = [concept.name for concept in concepts()[:6]]
TRAINED = "--model demo --steps 2 --batch-size 6 --rate 1e-3 --workers 0"


def made(folder: Path, objective: str) -> None:
    """Write images with captions, adapt the bundled model to them, and write prompts of the adapted model."""
    captions = [f"a photo of {name}" for name in NAMES]
    pq.write_table(pa.table({"image": photographs(len(NAMES)), "caption": captions}), folder / "pairs.parquet")
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    for command in (
        f"adapt pairs.parquet {objective} {TRAINED} -o adapted",
        "enhance labels.txt --recipe templates --model local-dir:adapted -o prompts.json",
    ):
        code, out, errors = run(*command.split(), folder=folder)
        assert code == 0, out + errors


def test_patches_are_learned_and_then_segment_and_classify(tmp_path: Path) -> None:
    made(tmp_path, "--objective pacl --lock both")
    words = (
        "segment pairs.parquet --prompts prompts.json --workers 0 --background 0.05 -o masks.parquet --overlays drawn"
    )
    code, out, errors = run(*words.split(), folder=tmp_path)
    assert code == 0, errors
    assert "raw patch tokens" not in out
    masks = pl.read_parquet(tmp_path / "masks.parquet")
    assert sorted(masks["row"].unique()) == list(range(6))
    for mask in masks.drop_nulls("label").iter_rows(named=True):
        pixels = decode_mask(mask["counts"], (mask["height"], mask["width"]))
        assert mask["share"] == np.float32(pixels.mean())
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [f"{row:06d}-masks.png" for row in range(6)]
    with Image.open(tmp_path / "drawn" / "000000-masks.png") as drawn:
        assert drawn.height > 48
    words = "classify pairs.parquet --prompts prompts.json --workers 0 --match"
    assert run(*words.split(), "patches", "-o", "patches.parquet", folder=tmp_path)[0] == 0
    pooled = run(*words.split(), "pooled", "-o", "pooled.parquet", folder=tmp_path)
    assert pooled[0] == 0
    scores = [pl.read_parquet(tmp_path / f"{name}.parquet")["score"].to_list() for name in ("patches", "pooled")]
    assert scores[0] != scores[1]
    code, _, errors = run(*words.split(), "late", "-o", "late.parquet", folder=tmp_path)
    assert code == 1
    assert "no learned matching of tokens; make one with `rag-clip adapt PAIRS --objective filip`" in errors
    code, _, errors = run(*words.split(), "patches", "-o", "x.parquet", "--features", "kept", folder=tmp_path)
    assert code == 1
    assert "leave the folder of features out" in errors


def test_a_late_interaction_is_learned_and_then_classifies(tmp_path: Path) -> None:
    (tmp_path / "filip.toml").write_text("reduced = 5\ngroups = 4\n")
    made(tmp_path, "--objective filip --lock image --settings filip.toml")
    words = "classify pairs.parquet --prompts prompts.json --workers 0 --match late -o late.parquet"
    code, _, errors = run(*words.split(), folder=tmp_path)
    assert code == 0, errors
    assert set(pl.read_parquet(tmp_path / "late.parquet")["label"]) <= set(NAMES)
    words = "segment pairs.parquet --prompts prompts.json --workers 0 -o masks.parquet"
    code, out, errors = run(*words.split(), folder=tmp_path)
    assert code == 0, errors
    assert "did not learn to match patches" in out
