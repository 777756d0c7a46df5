"""Build an index of images with their captions: decode, embed both, clean, estimate noise, and write to Qdrant.

Embedded rows are stored shard by shard before anything is written to the index: an interrupted run, or another index of
the same images, decodes and embeds nothing twice, even if captions are cleaned with other settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rag_clip.captions.filter import CORPUS_NOTE, check_cleaning, plain
from rag_clip.corpus.cleaning import CleaningSettings, load_cleaning
from rag_clip.display import counted
from rag_clip.files.lock import locked
from rag_clip.files.outputs import check_outputs
from rag_clip.files.shards import Shards
from rag_clip.given import AnyEncoder, to_encoder, to_places
from rag_clip.images.cleaning import CleanPairs, check_pair_cleaning, clean_pairs
from rag_clip.images.decoding import Decoding
from rag_clip.images.embedding import embed_pairs
from rag_clip.images.encoding import encode_elsewhere, image_engine
from rag_clip.images.noise import judge_noise
from rag_clip.images.opening import Images
from rag_clip.images.pair_files import open_pairs
from rag_clip.images.pairs import PairFile
from rag_clip.images.shards import FAILURES, VECTORS, PairShards, list_failures, open_shards, unit_rows
from rag_clip.images.views import examine
from rag_clip.progress import Progress
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder
from rag_clip.store import CollectionSchema, Location, Store, create_store, load_schema

from .running import Running

LOAD_ROWS = 256
NOISY = 0.5
STORED = ("id", "text", "source", "url", "sha256", "phash", "width", "height", *VECTORS)


@dataclass(frozen=True, slots=True)
class ImagesSummary:
    """What `index_images` did: rows = usable + failed + sum(dropped) = embedded now + from_shards of an earlier run.

    A row is an image with one of its captions; the index contains each pair once.

    location: the index.
    rows, usable, failed: rows read, rows in the index, and rows that could not be used.
    dropped: rows that cleaning dropped, by reason; the folder `dropped` beside `failures` has a sample of them.
    reasons, failures: why rows failed, counted, and the file with the reason of each.
    embedded, from_shards: rows embedded in this run, and rows from shards of an earlier run.
    noisy: pairs with a noise probability of at least one half; None if noise was not estimated, or for a single pair.
    count: pairs in the index now.
    seconds: per stage; "decode" is the mean over the workers.
    bottleneck: the slowest stage.
    """

    location: str
    rows: int
    usable: int
    failed: int
    dropped: Mapping[str, int]
    reasons: Mapping[str, int]
    failures: Path
    embedded: int
    from_shards: int
    noisy: int | None
    count: int
    seconds: Mapping[str, float]
    bottleneck: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{counted(self.count, 'image')} in {self.location}: {self.usable} usable of {counted(self.rows, 'row')}"

    __repr__ = __str__


@on_screen.job()
def index_images(
    pairs: Images | str | Path | Sequence[str | Path],
    *,
    index: str | Path,
    encoder: AnyEncoder,
    shards: str | Path | None = None,
    cleaning: CleaningSettings | None = None,
    noise: bool = True,
    schema: CollectionSchema | None = None,
    running: Running = Running(),  # noqa: B008
) -> ImagesSummary:
    """Add image-caption pairs to the index, made if it does not exist, and optimise it.

    pairs: paths of Parquet files, webdataset tars or folders; `Images` if the columns are not called `image`, `caption`
        and `url`. Paths of images in a Parquet file start at its root, by default the file's folder, and must lie below
        it. An image with a list of captions is stored with each of them.
    index: a folder, or the address of a Qdrant server.
    encoder: an encoder or the name of a model.
    shards: the folder of the embedded rows, by default INDEX.shards beside the index. Its file failed.parquet has the
        reason for each unusable row.
    cleaning: drops captions with their images; by default the preset `default` of index/cleaning.toml. Rules over the
        whole corpus use all pairs.
    noise: estimate for every pair that is kept how probable it is that the caption is wrong (see images/noise.py);
        otherwise the field is null.
    schema: by default index/images.toml.
    running: processes, batch size, `force` and progress.

    Each point has the vectors `image` and `text`; its id is made from the image's SHA-256 and the caption. The index
    records how many rows were kept and dropped.

    Raises FileNotFoundError for a missing file; ValueError for files without usable pairs, wrong columns or settings,
    an index of another encoder, schema or cleaning, a limit of rows, and outputs that are inputs or (without `force`)
    belong to other programs; OSError for a damaged file, and if shards cannot be written; StoreError if the index is in
    use or cannot be written, BusyError if another process embeds into `shards`. Nothing is made if no pair is usable.
    """
    pairs, encoder, report = to_places(pairs, "pairs"), to_encoder(encoder), running.report
    folder, cleaning, progress = choose_shards(index, shards), cleaning or load_cleaning(), Progress(report=report)
    check_outputs([(index, "index"), (folder, "shards")], inputs=[pairs.paths], force=running.force)
    check_pair_cleaning(cleaning)
    if pairs.limit is not None:
        raise ValueError(f"an index takes all rows of its files; leave out the limit of {pairs.limit}")
    files, columns = open_pairs(pairs)
    settings = json.dumps([asdict(columns), str(pairs.root)])
    with locked(folder / "lock", doing=f"embed into {folder}"):
        Shards(folder, "pairs").sweep()
        parts, embedded = embed_files(
            files, folder, settings, encoder=encoder, decoding=running.decoding, progress=progress
        )
        reasons = list_failures(parts, folder / FAILURES)
        with progress.stage("clean"):
            kept = clean_pairs(parts, cleaning, folder, report)
        if not len(kept):
            raise ValueError(_nothing_usable(parts, {**reasons, **kept.dropped}))
        with progress.stage("noise"):
            probabilities = judge_noise(kept, scale=encoder.scale, device=encoder.device) if noise else None
        schema = schema or load_image_schema()
        with create_store(index, schema=schema, encoder=encoder.fingerprint, dim=encoder.dim) as store:
            check_cleaning(store, cleaning)
            store.note(CORPUS_NOTE, _describe(kept, reasons, cleaning))
            _fill(store, kept, probabilities, progress)
            count = store.count()
    noisy = None if probabilities is None else int((probabilities >= NOISY).sum())
    rows, failed = _count_rows(parts), reasons.total()
    return ImagesSummary(
        str(index),
        rows,
        len(kept),
        failed,
        kept.dropped,
        dict(reasons),
        folder / FAILURES,
        embedded,
        rows - embedded,
        noisy,
        count,
        dict(progress.seconds),
        progress.bottleneck,
    )


def load_image_schema() -> CollectionSchema:
    """Read the description of the images collection that is shipped as index/images.toml."""
    return load_schema(Path(str(files("rag_clip.index").joinpath("images.toml"))))


def embed_files(
    pairs: Iterable[PairFile],
    folder: Path,
    settings: str,
    *,
    encoder: Encoder,
    decoding: Decoding,
    progress: Progress,
) -> tuple[list[PairShards], int]:
    """Embed the rows that are missing in the shards; return the shards, and how many pairs were embedded."""
    parts, embedded = [], 0
    advance = progress.counting("embed", unit="images")
    opened = [
        (
            file,
            open_shards(
                folder,
                file,
                encoder=encoder.fingerprint,
                dim=encoder.dim,
                settings=settings,
                shard_rows=decoding.shard_rows,
            ),
        )
        for file in pairs
    ]
    if decoding.elsewhere is not None:
        gaps = [part.shards.missing() for _, part in opened]
        encode_elsewhere(
            _embed_part, opened, gaps, encoder=encoder, decoding=decoding, advance=advance, progress=progress
        )
        parts = [part for _, part in opened]
        return parts, sum(part.count_pairs(runs) for part, runs in zip(parts, gaps, strict=True))
    with image_engine(encoder, decoding, examine=examine, progress=progress, stage="encode images") as engine:
        for file, part in opened:
            missing = part.shards.missing()
            embed_pairs(file, part.shards, engine=engine, advance=advance)
            embedded += part.count_pairs(missing)
            parts.append(part)
    return parts, embedded


def _embed_part(
    encoder: Encoder, given: tuple[Sequence[tuple[PairFile, PairShards]], Decoding], unit: tuple[int, int, int]
) -> tuple[int, dict[str, float]]:
    """Embed a shard, in a worker; return its rows, and the seconds of the stages."""
    (opened, decoding), (place, start, stop) = given, unit
    (file, part), progress = opened[place], Progress()
    with image_engine(encoder, decoding, examine=examine, progress=progress, stage="encode images") as engine:
        embed_pairs(file, part.shards, engine=engine, advance=lambda _rows: None, runs=[(start, stop)])
    return stop - start, progress.seconds


def choose_shards(index: str | Path, shards: str | Path | None) -> Path:
    """Return the folder of embedded rows, by default beside the index; raise ValueError if that is a server."""
    if shards is not None:
        return Path(shards)
    location = Location(str(index))
    if location.is_server:
        raise ValueError("an index on a server needs a folder for its embedded rows; give shards")
    return location.beside(".shards")


def _fill(store: Store, pairs: CleanPairs, noise: np.ndarray | None, progress: Progress) -> None:
    with progress.stage("load"):
        _load(pairs, store, noise, progress.counting("load", len(pairs), unit="images"))
    with progress.stage("optimise"):
        store.optimise(progress.report)


def _load(pairs: CleanPairs, store: Store, noise: np.ndarray | None, advance: Callable[[int], None]) -> None:
    """Write the pairs, with their probability of noise if it was estimated."""
    first = 0
    for table in pairs.read(STORED):
        end = first + len(table)
        judged = pa.nulls(len(table), pa.float32()) if noise is None else pa.array(noise[first:end], pa.float32())
        rows = table.drop_columns(list(VECTORS)).append_column("noise", judged)
        for name in VECTORS:
            vectors = pa.array(unit_rows(table[name], store.card.dim).reshape(-1))
            rows = rows.append_column(name, pa.FixedSizeListArray.from_arrays(vectors, store.card.dim))
        for batch in rows.to_batches(max_chunksize=LOAD_ROWS):
            store.upsert(batch)
            advance(batch.num_rows)
        first = end


def _describe(pairs: CleanPairs, reasons: Mapping[str, int], cleaning: CleaningSettings) -> dict[str, Any]:
    """Return how many rows of this run were kept and dropped; failed rows count as dropped."""
    return {
        "files": len(pairs.parts),
        "read": _count_rows(pairs.parts),
        "dropped": {**reasons, **pairs.dropped},
        "kept": len(pairs),
        "cleaning": plain(cleaning),
    }


def _count_rows(parts: Sequence[PairShards]) -> int:
    return sum(part.count_pairs() for part in parts)


def _nothing_usable(parts: Sequence[PairShards], reasons: Mapping[str, int]) -> str:
    found = ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "there are no rows"
    return f"no row of {_count_rows(parts)} is an image with a caption to keep: {found}"
