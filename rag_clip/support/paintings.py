"""Painted images in a folder: each image is painted once, and can be used with any encoder later.

A batch is one Parquet file with the columns key, text, seed, image (PNG); the key is a hash of the painter, its
settings, the text and the seed. Files are written atomically, so an interrupted run resumes where it stopped.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from PIL import Image

from rag_clip.display import counted
from rag_clip.files.folders import make_folder
from rag_clip.files.identity import hash_facts
from rag_clip.files.reading import typed_columns
from rag_clip.files.sealed import read_sealed
from rag_clip.files.shards import Shards
from rag_clip.progress import ProgressEvent, Report
from rag_clip.protocols import Painter
from rag_clip.support.painters import PainterError
from rag_clip.support.synthesised import Painting

PAINTED = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("image", pa.binary(), nullable=False)])


@dataclass(frozen=True, slots=True)
class Painted:
    """One painted image: its index in the plan (`place`), its bytes, and its reference `FILE.parquet#ROW`."""

    place: int
    image: bytes
    reference: str


def paint(
    plan: Sequence[Painting], painter: Painter, *, folder: Path, batch: int, report: Report
) -> Iterator[list[Painted]]:
    """Yield the images of the plan in batches: first those already in the folder, then the others, newly painted.

    plan: the images to paint.
    painter: paints them.
    folder: where painted images are kept.
    batch: images per call of the painter, and per file.
    report: receives progress events.

    Raises PainterError where the painter fails or returns other images than requested; finished images are kept.
    """
    make_folder(folder)
    shards = Shards(folder, "painted images")
    missing = {_key(painting, painter): place for place, painting in enumerate(plan)}
    done = len(plan) - len(missing)  # the same text with the same seed is one image
    for stored in _read(folder, missing):
        for painted in stored:
            missing.pop(_key(plan[painted.place], painter))
        done += len(stored)
        report(ProgressEvent("paint", done, len(plan), "images"))
        yield stored
    keys = list(missing)
    for part in (keys[start : start + batch] for start in range(0, len(keys), batch)):
        wanted = [plan[missing[key]] for key in part]
        try:
            images = _ask(painter, wanted)
        except Exception as error:  # a model on a device fails in more ways than can be listed
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise PainterError(
                f"{painter.name} failed after {done} of {counted(len(plan), 'image')} ({reason}); those are kept in "
                f"{folder}, run the same again to go on"
            ) from error
        shards.write(part[0], _to_table(part, wanted, images), compression="none")
        done += len(part)
        report(ProgressEvent("paint", done, len(plan), "images"))
        yield [
            Painted(missing[key], image, f"{shards.path(part[0])}#{row}")
            for row, (key, image) in enumerate(zip(part, images, strict=True))
        ]


def read_painted(reference: str) -> bytes:
    """Return the PNG with the reference `FILE.parquet#ROW`."""
    path, _, row = reference.rpartition("#")
    image: bytes = read_sealed(Path(path), ["image"])["image"][int(row)].as_py()
    return image


def _key(painting: Painting, painter: Painter) -> str:
    return hash_facts([painter.name, dict(painter.settings), painting.text, painting.seed], digits=32)


def _ask(painter: Painter, wanted: Sequence[Painting]) -> list[bytes]:
    images = painter.paint([painting.text for painting in wanted], seeds=[painting.seed for painting in wanted])
    if len(images) != len(wanted):
        raise ValueError(f"it returned {counted(len(images), 'image')} for {counted(len(wanted), 'text')}")
    for image, painting in zip(images, wanted, strict=True):
        if image.size != painter.size:
            found, expected = (f"{width} x {height}" for width, height in (image.size, painter.size))
            raise ValueError(f"its image for {painting.text!r} is {found} pixels, not {expected}")
    return [_encode(image) for image in images]


def _encode(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def _to_table(keys: Sequence[str], wanted: Sequence[Painting], images: Sequence[bytes]) -> pa.Table:
    return pa.table(
        {
            "key": pa.array(keys, pa.string()),
            "text": pa.array([painting.text for painting in wanted], pa.string()),
            "seed": pa.array([painting.seed for painting in wanted], pa.int64()),
            "image": pa.array(images, pa.binary()),
        }
    )


def _read(folder: Path, wanted: Mapping[str, int]) -> Iterator[list[Painted]]:
    """Yield, file by file, the images in the folder whose key is in `wanted`; a repeated key only once."""
    seen: set[str] = set()
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = typed_columns(read_sealed(path, ["key", "image"]), PAINTED)
        except (ValueError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{path} holds no painted images ({reason}); remove it, or name another folder") from error
        keys = table["key"].to_pylist()
        rows = [row for row, key in enumerate(keys) if key in wanted and key not in seen]
        seen.update(keys)
        if rows:
            images = table["image"].take(rows).to_pylist()
            yield [Painted(wanted[keys[row]], image, f"{path}#{row}") for row, image in zip(rows, images, strict=True)]
