"""Embed a file of image-caption pairs shard by shard: decode in workers, then encode images and captions in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from rag_clip.corpus.clean import repair
from rag_clip.files.shards import RowShards
from rag_clip.images.decoding import Decoded, DecodePool
from rag_clip.images.facts import ImageFacts
from rag_clip.images.features import PIECE_BYTES, PIECE_ROWS, decode_ahead, spans, take_rows
from rag_clip.images.items import Item
from rag_clip.images.pairs import Pair, PairFile
from rag_clip.images.shards import VECTORS, pair_schema
from rag_clip.progress import StageClock
from rag_clip.protocols import Encoder
from rag_clip.store import caption_id

MAX_CAPTION_CHARACTERS = 10_000
NOT_FINITE = "the encoder's features are not finite; try precision fp32"
Piece = tuple[list[list[Pair]], Decoded]


def embed_pairs(
    file: PairFile,
    shards: RowShards,
    *,
    encoder: Encoder,
    pool: DecodePool,
    batch_size: int,
    clock: StageClock,
    advance: Callable[[int], None],
) -> None:
    """Embed the rows that `shards` miss; `pool` must examine images with image_facts.examine.

    A row that cannot be used gets its error and stops no other. `advance` is told the rows of each batch.
    """
    piece_rows = max(1, min(PIECE_ROWS, PIECE_BYTES // max(1, file.row_bytes)))
    for start, stop in shards.missing():
        sizes = [
            piece_stop - piece
            for shard in spans(start, stop, shards.shard_rows)
            for batch in spans(*shard, batch_size)
            for piece, piece_stop in spans(*batch, piece_rows)
        ]
        pieces = _decode(_timed(file.read(sizes, start=start), clock), pool, ahead=2 * batch_size)
        for shard_start, shard_stop in spans(start, stop, shards.shard_rows):
            tables, settled = [], True
            for first, end in spans(shard_start, shard_stop, batch_size):
                batch = take_rows(pieces, end - first, count=lambda piece: len(piece[1].errors))
                settled = settled and not any(decoded.unreadable for _, decoded in batch)
                clock.add("decode", sum(decoded.seconds for _, decoded in batch) / max(1, pool.workers))
                tables.append(_embed(batch, encoder, file.source, clock))
                advance(end - first)
            with clock.stage("write shards"):
                shards.write(shard_start, pa.concat_tables(tables), rows=shard_stop - shard_start, settled=settled)


def _decode(rows: Iterable[list[Pair]], pool: DecodePool, *, ahead: int) -> Iterator[Piece]:
    """Decode pieces in order, at most about `ahead` rows before they are used.

    Each image comes back as its pairs, one for each caption, without the image.
    """
    waiting: deque[list[list[Pair]]] = deque()

    def items() -> Iterator[list[Item]]:
        for pairs in rows:
            checked = [[_check_caption(each) for each in _captioned(pair)] for pair in pairs]
            waiting.append([[pair._replace(image=None) for pair in each] for each in checked])
            yield [None if all(pair.problem for pair in each) else each[0].image for each in checked]

    for decoded in decode_ahead(items(), pool, rows=ahead):
        yield waiting.popleft(), decoded


def _captioned(pair: Pair) -> list[Pair]:
    """Return a pair for each caption of an image."""
    if not isinstance(pair.caption, list):
        return [pair]
    if not pair.caption:
        return [pair._replace(caption=None, problem=pair.problem or "the list of captions is empty")]
    return [pair._replace(caption=caption) for caption in pair.caption]


def _check_caption(pair: Pair) -> Pair:
    """Repair the caption, or name what is wrong with it."""
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


@torch.no_grad()
def _embed(pieces: Sequence[Piece], encoder: Encoder, source: str, clock: StageClock) -> pa.Table:
    """Make the rows of a batch, in the columns of `pair_schema`."""
    decoding = [error for _, decoded in pieces for error in decoded.errors]
    places = np.cumsum([error is None for error in decoding]) - 1  # of each image among the good ones
    rows = [(image, pair) for image, each in enumerate(each for piece, _ in pieces for each in piece) for pair in each]
    pairs = [pair for _, pair in rows]
    errors = [pair.problem or decoding[image] for image, pair in rows]
    good = [row for row, error in enumerate(errors) if error is None]
    with clock.stage("encode images"):
        images = _encode_images(pieces, encoder)[[places[rows[row][0]] for row in good]]  # [good pairs, d]
    with clock.stage("encode captions"):
        captions = _encode_captions([pairs[row].caption or "" for row in good], encoder)
    usable = np.isfinite(images).all(axis=1) & np.isfinite(captions).all(axis=1)
    for place in np.flatnonzero(~usable):
        errors[good[place]] = NOT_FINITE
    facts: list[ImageFacts] = [found for _, decoded in pieces for found in decoded.facts]
    kept = {row: facts[places[rows[row][0]]] for place, row in enumerate(good) if usable[place]}
    found = [kept.get(row) for row in range(len(pairs))]
    columns = {
        "key": [pair.key for pair in pairs],
        "id": [fact and caption_id(fact.sha256, pair.caption or "") for fact, pair in zip(found, pairs, strict=True)],
        "text": [pair.caption for pair in pairs],
        "source": [source] * len(pairs),
        "url": [pair.url for pair in pairs],
        **{name: [fact and getattr(fact, name) for fact in found] for name in ImageFacts._fields},
        **{
            name: _to_column(vectors[usable], list(kept), len(pairs))
            for name, vectors in zip(VECTORS, (images, captions), strict=True)
        },
        "error": errors,
    }
    return pa.table(columns, schema=pair_schema(encoder.dim))


def _encode_images(pieces: Sequence[Piece], encoder: Encoder) -> np.ndarray:
    pixels = [decoded.pixels for _, decoded in pieces if decoded.pixels is not None]
    if not pixels:
        return np.zeros((0, encoder.dim), np.float32)
    channels_first = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2).to(encoder.device)
    return encoder.encode_pixels(channels_first).pooled.float().cpu().numpy()


def _encode_captions(captions: Sequence[str], encoder: Encoder) -> np.ndarray:
    if not captions:
        return np.zeros((0, encoder.dim), np.float32)
    distinct = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    vectors = encoder.encode_text(list(distinct)).float().cpu().numpy()
    rows: np.ndarray = vectors[[distinct[caption] for caption in captions]]
    return rows


def _to_column(vectors: np.ndarray, rows: Sequence[int], count: int) -> pa.Array:
    """Put vectors [m, d] into the rows named, out of `count`, as float16; the other rows are null."""
    filled = np.zeros((count, vectors.shape[1]), np.float16)
    filled[list(rows)] = vectors
    empty = np.ones(count, bool)
    empty[list(rows)] = False
    return pa.FixedSizeListArray.from_arrays(pa.array(filled.reshape(-1)), vectors.shape[1], mask=pa.array(empty))


def _timed(pieces: Iterator[list[Pair]], clock: StageClock) -> Iterator[list[Pair]]:
    while True:
        with clock.stage("read"):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece
