"""Small sets of image-caption pairs that the tests of the images job share."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from inputs.pictures import COLOURS, picture

SIDES = {name: 10 + place for place, name in enumerate(COLOURS)}


def caption(colour: str) -> str:
    return f"a {colour} square"


def write_pairs(
    path: Path, images: Sequence[object], captions: Sequence[str | None], **columns: Sequence[object]
) -> Path:
    kind = pa.string() if any(isinstance(image, str) for image in images) else pa.binary()
    pq.write_table(pa.table({"image": pa.array(images, kind), "caption": captions, **columns}), path)
    return path


def colour_pairs(path: Path, *colours: str) -> Path:
    return write_pairs(path, [picture(name) for name in colours], [caption(name) for name in colours])


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def add_sample(tar: tarfile.TarFile, key: str, colour: str) -> None:
    """Add the three members that img2dataset writes for a picture."""
    add(tar, f"{key}.jpg", picture(colour, kind="JPEG", size=(SIDES[colour], 9)))
    add(tar, f"{key}.txt", caption(colour).encode())
    add(tar, f"{key}.json", json.dumps({"url": f"http://x/{key}", "caption": caption(colour), "key": key}).encode())


def write_tar(path: Path, *colours: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for row, colour in enumerate(colours):
            add_sample(tar, f"{row:05d}", colour)
    return path
