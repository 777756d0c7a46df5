"""Embed a file of image-caption pairs shard by shard: decode in workers, then encode images and captions in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch

from rag_clip.corpus.clean import repair
from rag_clip.files.shards import RowShards
from rag_clip.images.encoding import NOT_FINITE, Encoded, ImageEngine, Piece
from rag_clip.images.pairs import Pair, PairFile
from rag_clip.images.shards import VECTORS, pair_schema
from rag_clip.images.views import ImageFacts
from rag_clip.protocols import Encoder
from rag_clip.store import caption_id

MAX_CAPTION_CHARACTERS = 10_000


def embed_pairs(
    file: PairFile,
    shards: RowShards,
    *,
    engine: ImageEngine,
    advance: Callable[[int], None],
    runs: Sequence[tuple[int, int]] | None = None,
) -> None:
    """Embed the rows that are missing in `shards`, or those of `runs`; the engine examines images with `views.examine`.

    A row that cannot be used is stored with its error. `advance` is called with the number of rows of each batch.
    """
    progress = engine.progress
    finished = engine.encode_shards(
        shards.missing() if runs is None else runs,
        shards.shard_rows,
        read=lambda sizes, start: map(_to_piece, file.read(sizes, start=start)),
        make=lambda batch: _embed(batch, engine, file.source),
        row_bytes=file.row_bytes,
        advance=advance,
    )
    for shard in finished:
        with progress.stage("write shards"):
            rows = shard.stop - shard.start
            shards.write(shard.start, pa.concat_tables(shard.parts), rows=rows, settled=shard.settled)


def _to_piece(pairs: Sequence[Pair]) -> Piece[list[Pair]]:
    """Return the images, None if no caption of one can be used, each with its pairs, one per caption."""
    checked = [[_check_caption(each) for each in _captioned(pair)] for pair in pairs]
    images = [None if all(pair.problem for pair in each) else each[0].image for each in checked]
    return Piece(images, [[pair._replace(image=None) for pair in each] for each in checked])


def _captioned(pair: Pair) -> list[Pair]:
    """Return one pair per caption of an image."""
    if not isinstance(pair.caption, list):
        return [pair]
    if not pair.caption:
        return [pair._replace(caption=None, problem=pair.problem or "the list of captions is empty")]
    return [pair._replace(caption=caption) for caption in pair.caption]


def _check_caption(pair: Pair) -> Pair:
    """Repair the caption, or set the pair's problem."""
    if not isinstance(pair.caption, str):
        problem = "the caption is null" if pair.caption is None else f"the caption is {pair.caption!r:.80}, not a text"
        return pair._replace(caption=None, problem=pair.problem or problem)
    if pair.problem:
        return pair
    if len(pair.caption) > MAX_CAPTION_CHARACTERS:
        length = f"{len(pair.caption):,} characters; the limit is {MAX_CAPTION_CHARACTERS:,}"
        return pair._replace(caption=pair.caption[:100], problem=f"the caption has {length}")
    caption = repair(pair.caption)
    return pair._replace(caption=caption, problem=None if caption else "the caption is empty")


def _embed(batch: Encoded[list[Pair]], engine: ImageEngine, source: str) -> pa.Table:
    """Return the rows of a batch, with the columns of `pair_schema`."""
    places = np.cumsum([error is None for error in batch.errors]) - 1  # row of each image among the good ones
    rows = [(image, pair) for image, pairs in enumerate(batch.beside) for pair in pairs]
    pairs = [pair for _, pair in rows]
    errors = [pair.problem or batch.errors[image] for image, pair in rows]
    good = [row for row, error in enumerate(errors) if error is None]
    images = batch.vectors[[places[rows[row][0]] for row in good]]  # [good pairs, d]
    with engine.progress.stage("encode captions"):
        captions = _encode_captions([pairs[row].caption or "" for row in good], engine.encoder)
    usable = np.isfinite(captions).all(axis=1)
    for place in np.flatnonzero(~usable):
        errors[good[place]] = NOT_FINITE
    kept = {row: batch.facts[places[rows[row][0]]] for place, row in enumerate(good) if usable[place]}
    facts: list[ImageFacts | None] = [kept.get(row) for row in range(len(pairs))]  # None for rows with an error
    columns = {
        "key": [pair.key for pair in pairs],
        "id": [fact and caption_id(fact.sha256, pair.caption or "") for fact, pair in zip(facts, pairs, strict=True)],
        "text": [pair.caption for pair in pairs],
        "source": [source] * len(pairs),
        "url": [pair.url for pair in pairs],
        **{name: [fact and getattr(fact, name) for fact in facts] for name in ImageFacts._fields},
        **{
            name: _to_column(vectors[usable], list(kept), len(pairs))
            for name, vectors in zip(VECTORS, (images, captions), strict=True)
        },
        "error": errors,
    }
    return pa.table(columns, schema=pair_schema(engine.encoder.dim))


@torch.no_grad()
def _encode_captions(captions: Sequence[str], encoder: Encoder) -> np.ndarray:
    if not captions:
        return np.zeros((0, encoder.dim), np.float32)
    distinct = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    vectors = encoder.encode_text(list(distinct)).float().cpu().numpy()  # [distinct, d]
    rows: np.ndarray = vectors[[distinct[caption] for caption in captions]]  # [t, d]
    return rows


def _to_column(vectors: np.ndarray, rows: Sequence[int], count: int) -> pa.Array:
    """Return a float16 column of `count` rows with the vectors [m, d] in `rows`, and null elsewhere."""
    filled = np.zeros((count, vectors.shape[1]), np.float16)
    filled[list(rows)] = vectors
    empty = np.ones(count, bool)
    empty[list(rows)] = False
    return pa.FixedSizeListArray.from_arrays(pa.array(filled.reshape(-1)), vectors.shape[1], mask=pa.array(empty))
