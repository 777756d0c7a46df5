"""Segment images by the texts of classes: which class is truest of each place, as masks and as overlays.

Finished shards of masks lie in `output`.parts until the output is complete, and the same call continues from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.nn.functional import normalize

from rag_clip.classifiers.patch_maps import PatchMaps
from rag_clip.classifiers.segmentation import segment
from rag_clip.classifiers.zero_shot import zero_shots
from rag_clip.data import LabelSet
from rag_clip.display import MOST_ROWS, counted, html_table
from rag_clip.evaluation.segmentation import MaskQuality, by_row, compare_masks
from rag_clip.files.folders import make_folder
from rag_clip.files.identity import hash_facts
from rag_clip.files.lock import locked
from rag_clip.files.outputs import FOLDERS, holding
from rag_clip.files.rle import encode_mask
from rag_clip.files.shards import RowShards, Shards
from rag_clip.given import (
    AnyEncoder,
    AnyImages,
    image_files,
    kept_with,
    scratch_output,
    to_encoder,
    to_images,
    to_texts,
)
from rag_clip.images.decoding import Decoding
from rag_clip.images.encoding import Encoded, ImageEngine, Piece, image_engine
from rag_clip.images.items import Item, read_image
from rag_clip.images.rows import ImageFile, read_items
from rag_clip.models.decode import decode_image, image_size
from rag_clip.models.towers import two_towers
from rag_clip.progress import Progress
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder
from rag_clip.report.overlays import draw_overlay

from .classify import parts_of, replacing_output
from .running import Running

SHARD_ROWS = 256
VALUES_AT_ONCE = 1 << 25
SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "path": pa.string(),
        "label": pa.string(),
        "score": pa.float32(),
        "share": pa.float32(),
        "height": pa.int32(),
        "width": pa.int32(),
        "counts": pa.string(),
        "error": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class Masks:
    """What becomes a mask.

    background: pixels whose best cosine is below a number are background, or pixels of which one of these texts is
        truer than every class; None for no background.
    least_share: classes that cover less than this share of an image get no mask.

    Raises ValueError for a number outside [-1, 1], for empty texts, and for a share outside [0, 1].
    """

    background: float | Sequence[str] | None = None
    least_share: float = 0.005

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.background, int | float) and not -1 <= self.background <= 1:
            raise ValueError(f"the background's threshold is {self.background}, and cosines go from -1 to 1")
        if self.texts and not all(text.strip() for text in self.texts):
            raise ValueError("a text of the background is empty; name what is behind the classes, such as 'grass'")
        if not 0 <= self.least_share <= 1:
            raise ValueError(f"the least share is {self.least_share}; give 0 to 1")

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the background."""
        if self.background is None or isinstance(self.background, int | float):
            return ()
        return (self.background,) if isinstance(self.background, str) else tuple(self.background)

    @property
    def threshold(self) -> float | None:
        """The threshold of the background."""
        return float(self.background) if isinstance(self.background, int | float) else None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class SegmentSummary:
    """What `segment_images` did.

    output: the Parquet file of masks: a row per image and class, and one without label for an image of none.
    rows, failed: images, and images with an error.
    masks: how many masks there are.
    learned: whether the encoder learned to match patches; otherwise raw patch tokens were used.
    classes: by class, the images that have it, those of most images first.
    overlays: the folder of the overlays, or None.
    quality: how well the masks agree with known ones; None without these.
    seconds, bottleneck: seconds per stage, and the slowest stage.
    """

    output: Path
    rows: int
    failed: int
    masks: int
    learned: bool
    classes: Mapping[str, int]
    overlays: Path | None
    quality: MaskQuality | None
    seconds: Mapping[str, float]
    bottleneck: str

    def to_polars(self) -> pl.DataFrame:
        """Return the masks."""
        return pl.read_parquet(self.output)

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.output}: {counted(self.masks, 'mask')} of {counted(self.rows, 'image')}, {self.failed} failed"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        shown = self.to_polars().drop("counts").head(MOST_ROWS + 1)
        return html_table(str(self), shown.iter_rows(named=True))


@on_screen.job()
def segment_images(
    images: AnyImages,
    *,
    prompts: Any,
    output: str | Path | None = None,
    encoder: AnyEncoder | None = None,
    masks: Masks = Masks(),
    overlays: str | Path | None = None,
    truth: str | Path | None = None,
    running: Running = Running(),  # noqa: B008
) -> SegmentSummary:
    """Write a mask for each class that is in an image, as COCO's run-length encoding.

    images: paths, a frame, or images in memory, as for `classify`.
    prompts: the classes and their texts, or their file.
    output: a Parquet file with `row` (of the images, from 0), `path` (if images are files), `label`, `score` (the mean
        cosine over the mask), `share` of the image's area, `height`, `width`, `counts` and `error`; without it, the
        masks are in a temporary file for as long as the summary exists.
    encoder: an open_clip model with a vision transformer; one that learned to match patches (`adapt` with `pacl`) does
        so, any other is taken by its raw patch tokens, which are much worse. By default the one of the prompts.
    masks: the background, and the least share of an image.
    overlays: a folder for a PNG file per image, such as 000007-masks.png of row 7, with its masks in colour and a
        legend; those of a former run are deleted.
    truth: known masks, in a file such as this job writes, with which the masks are compared (see `compare_masks`).
    running: processes, batch size, `force` and progress.

    The whole image is resized to the encoder's input, whatever its aspect ratio. An unusable image has an error, and
    the run goes on. Raises ValueError for input, prompts or an encoder that cannot be used, and for outputs as
    `classify` does; BusyError if another process writes the output.
    """
    given, texts, progress = to_images(images), to_texts(prompts), Progress(report=running.report)
    files = given.open()
    place, let_go = scratch_output(output, "masks.parquet")
    if place.suffix.lower() != ".parquet" and not place.is_dir():
        raise ValueError(f"the output {place} would be Parquet; give it the suffix .parquet")
    folder = None if overlays is None else Path(overlays)
    read = [image_files(given), prompts if isinstance(prompts, str | Path) else None, truth]
    written = segment_outputs(place, folder)
    with holding(written, inputs=read, force=running.force):
        towers = two_towers(to_encoder(encoder, recorded=texts.recorded.encoder))
        with progress.stage("prompts"):
            weights = normalize(zero_shots([texts], towers, report=running.report)[0].weights.float(), dim=-1)
            behind = towers.encode_text(list(masks.texts))
            maps = PatchMaps(towers, torch.cat([weights, behind]))
        facts = {
            "version": version("rag-clip"),
            "encoder": asdict(towers.fingerprint),
            "learned": maps.learned,
            "prompts": {"method": texts.recorded.method, "settings": texts.recorded.settings},
            "background": masks.background if masks.threshold is not None else list(masks.texts),
            "least_share": masks.least_share,
            "classes": len(texts.labels),
        }
        sources = [(file, _shards(file, parts_of(place), maps, masks, texts.labels)) for file in files]
        _fill(sources, maps, masks, texts.labels, running, progress)
        with replacing_output(place, parts_of(place)) as unfinished:
            counts = _write(unfinished, sources, facts, progress)
        if folder is not None:
            _draw_overlays(folder, place, files, texts.labels, progress)
        quality = None
        if truth is not None:
            with progress.stage("compare"):
                quality = compare_masks(place, Path(truth), texts.labels)
    rows, failed, total, classes = counts
    ordered = dict(sorted(classes.items(), key=lambda pair: -pair[1]))
    summary = SegmentSummary(
        place,
        rows,
        failed,
        total,
        maps.learned,
        ordered,
        folder,
        quality,
        dict(progress.seconds),
        progress.bottleneck,
    )
    return kept_with(summary, let_go)


def segment_outputs(output: Path, overlays: Path | None) -> list[tuple[str | Path | None, str]]:
    """Return what `segment` writes, for `check_outputs`."""
    return [(output, "segment"), (parts_of(output), "parts"), (overlays, "overlays")]


def size_of(content: bytes, image: Image.Image) -> tuple[int, int]:
    """Return height and width of an image file; for decode workers."""
    width, height = image_size(content)
    return height, width


def _shards(file: ImageFile, parts: Path, maps: PatchMaps, masks: Masks, labels: LabelSet) -> RowShards:
    what = [maps.fingerprint.identity, maps.key, masks.background, masks.least_share, labels.names]
    key = hash_facts([*file.identity.facts, file.image, file.rows, *what])
    return RowShards(Shards(parts / key, "masks"), file.rows, SHARD_ROWS, SCHEMA, {})


def _fill(
    sources: Sequence[tuple[ImageFile, RowShards]],
    maps: PatchMaps,
    masks: Masks,
    labels: LabelSet,
    running: Running,
    progress: Progress,
) -> None:
    """Segment the rows of the missing shards."""
    gaps = [shards.missing() for _, shards in sources]
    missing = sum(stop - start for runs in gaps for start, stop in runs)
    advance = progress.counting("segment", missing)
    batch_size = max(1, min(running.batch_size, VALUES_AT_ONCE // maps.dim))
    decoding = Decoding(running.workers, batch_size, SHARD_ROWS)
    with image_engine(
        cast(Encoder, maps), decoding, images=missing, examine=size_of, progress=progress, stage="encode"
    ) as engine:
        for (file, shards), runs in zip(sources, gaps, strict=True):
            if not runs:
                continue
            make_folder(shards.folder)
            with locked(shards.folder / "lock", doing=f"segment {file.path}"):
                for shard in engine.encode_shards(
                    runs,
                    SHARD_ROWS,
                    read=lambda sizes, start, file=file: _pieces(file, sizes, start),  # type: ignore[misc]
                    make=lambda batch: _table(batch, engine, maps, masks, labels),
                    row_bytes=file.row_bytes,
                    advance=advance,
                ):
                    with progress.stage("write"):
                        table = pa.concat_tables(shard.parts)
                        shards.write(shard.start, table, rows=shard.stop - shard.start, settled=shard.settled)


def _pieces(file: ImageFile, sizes: Sequence[int], start: int) -> Iterator[Piece[tuple[int, Item]]]:
    """Yield images with their row in the file, and the place of those that are files."""
    for items in read_items(file, sizes, start=start):
        places = [item if isinstance(item, str) else None for item in items]
        yield Piece(items, [(start + row, place) for row, place in enumerate(places)])
        start += len(items)


def _table(
    batch: Encoded[tuple[int, Item]], engine: ImageEngine, maps: PatchMaps, masks: Masks, labels: LabelSet
) -> pa.Table:
    """Return the rows of a batch, with the columns of `SCHEMA`."""
    rows: list[dict[str, Any]] = []
    vectors, sizes = iter(batch.vectors), iter(batch.facts)
    with engine.progress.stage("masks"):
        for (row, place), error in zip(batch.beside, batch.errors, strict=True):
            if error is not None:
                rows.append({"row": row, "path": place, "error": error})
                continue
            cosines = torch.from_numpy(next(vectors)).view(-1, *maps.grid)  # [t, rows, columns]
            height, width = next(sizes)
            beside = {"row": row, "path": place, "height": height, "width": width}
            found = segment(cosines, size=(height, width), classes=len(labels), threshold=masks.threshold)
            made = list(_masks(found.classes.numpy(), found.values.numpy(), masks, labels))
            rows += [{**beside, **each} for each in made] or [beside]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _masks(classes: np.ndarray, values: np.ndarray, masks: Masks, labels: LabelSet) -> Iterator[dict[str, Any]]:
    """Yield the masks of an image, the largest first."""
    present, areas = np.unique(classes[classes >= 0], return_counts=True)
    for place in np.argsort(-areas, kind="stable"):
        share = areas[place] / classes.size
        if share < masks.least_share:
            return
        mask = classes == present[place]
        score = float(values[mask].mean())
        yield {
            "label": labels.names[present[place]],
            "score": score,
            "share": float(share),
            "counts": encode_mask(mask),
        }


def _write(
    path: Path, sources: Sequence[tuple[ImageFile, RowShards]], facts: Mapping[str, Any], progress: Progress
) -> tuple[int, int, int, dict[str, int]]:
    """Write the masks of all files, and return images, failed images, masks, and images by class."""
    first = failed = total = 0
    classes: dict[str, int] = {}
    schema = SCHEMA.with_metadata({b"rag_clip.masks": json.dumps(facts, default=str).encode()})
    with progress.stage("write"), pq.ParquetWriter(path, schema) as writer:
        for file, shards in sources:
            for start, _ in shards.spans():
                table = shards.read(start).replace_schema_metadata(schema.metadata)
                moved = pa.array(table["row"].to_numpy() + first, pa.int64())
                writer.write_table(table.set_column(0, "row", moved))
                failed += len(table) - table["error"].null_count
                names = table["label"].drop_null().to_pylist()
                total += len(names)
                for name in names:
                    classes[name] = classes.get(name, 0) + 1
            first += file.rows
    return first, failed, total, classes


def _draw_overlays(folder: Path, masks: Path, files: Sequence[ImageFile], labels: LabelSet, progress: Progress) -> None:
    """Draw the masks of each usable image over it, in a PNG file named by its row; former ones are deleted."""
    make_folder(folder)
    for path in list(folder.iterdir()):
        if FOLDERS["overlays"].fullmatch(path.name):
            path.unlink()
    colours = {name: row for row, name in enumerate(labels.names)}
    rows = iter(by_row(masks))
    advance = progress.counting("draw", sum(file.rows for file in files))
    for file in files:
        for items in read_items(file, _ones(file.rows)):
            row, found = next(rows)
            if found[0]["error"] is None:
                with progress.stage("draw"):
                    picture = decode_image(read_image(items[0]))
                    draw_overlay(picture, found, colours=colours).save(folder / f"{row:06d}-masks.png")
            advance(1)


def _ones(count: int) -> Iterator[int]:
    return (1 for _ in range(count))
