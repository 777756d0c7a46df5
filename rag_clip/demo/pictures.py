"""Photographs for captions of the bundled corpus that contain a name, for an index of the micro world's images.

`python -m rag_clip.demo.pictures pictures.parquet` writes columns id, image, caption, source, url, with the same bytes
every time; the address of a photograph is its row, `pictures.parquet#row=0`. Their render seeds differ from those of
the test photographs. A wrong caption has the photograph of another concept, as on the web.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import torch

from rag_clip.demo.concepts import WORLD_SEED, concepts
from rag_clip.demo.draw import draw_design
from rag_clip.demo.make import encode_jpeg
from rag_clip.demo.photograph import photograph

# Training uses seeds below 2**62; test and validation use 2**62 + 1 to 2**62 + 9.
PICTURE_SEED = 2**62 + 1000
AT_ONCE = 512
NAMED = ("name", "both")
FILE = "pictures.parquet"


def named_captions(per_concept: int, names: Collection[str] | None = None) -> pl.DataFrame:
    """Return id, caption, source, concept and wrong of up to `per_concept` captions that name each concept.

    They are the first in the corpus, whose order is random; `names` selects concepts, by default all.
    """
    assets = files("rag_clip.demo") / "assets"
    corpus, truth = (pl.read_parquet(str(assets / name)) for name in ("corpus.parquet", "truth.parquet"))
    named = corpus.join(truth, on="id", maintain_order="left").filter(pl.col("kind").is_in(NAMED))
    if names is not None:
        named = named.filter(pl.col("concept").is_in(list(names)))
    return named.filter(pl.int_range(pl.len()).over("concept") < per_concept).select(
        "id", "caption", "source", "concept", "wrong"
    )


def write_pictures(path: str | Path, *, per_concept: int = 24, names: Collection[str] | None = None) -> int:
    """Write photographs and captions as a Parquet file for `index_images`; return their number."""
    captions = named_captions(per_concept, names)
    textures = torch.from_numpy(np.stack([draw_design(concept.design) for concept in concepts()])).permute(0, 3, 1, 2)
    shown = torch.from_numpy(shown_concepts(captions))
    images: list[bytes] = []
    for part, start in enumerate(range(0, len(shown), AT_ONCE)):
        seen = photograph(textures[shown[start : start + AT_ONCE]], seed=PICTURE_SEED + part)
        images += [encode_jpeg(pixels) for pixels in seen.permute(0, 2, 3, 1).numpy()]
    table = captions.select("id", "caption", "source").insert_column(1, pl.Series("image", images, pl.Binary))
    addresses = [f"{FILE}#row={row}" for row in range(len(images))]
    table = table.with_columns(pl.Series("url", addresses, pl.String))
    table.write_parquet(path, compression="uncompressed", row_group_size=1024)
    return len(images)


def shown_concepts(captions: pl.DataFrame) -> np.ndarray:
    """Return the concept that each photograph shows: that of the caption, or another where the caption is wrong."""
    rows = {concept.name: row for row, concept in enumerate(concepts())}
    shown = np.array([rows[name] for name in captions["concept"]])
    draw = np.random.default_rng([WORLD_SEED, 7])
    shifts = draw.integers(1, len(rows), size=len(shown))
    found: np.ndarray = np.where(captions["wrong"].to_numpy(), (shown + shifts) % len(rows), shown)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--per-concept", type=int, default=24)
    asked = parser.parse_args()
    write_pictures(asked.path, per_concept=asked.per_concept)
