"""The same six labelled pictures in every kind of source that verbs read images from."""

from __future__ import annotations

import base64
import json
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from inputs.pairs import add, caption
from inputs.pictures import picture

COLOURS = ("blue", "blue", "green", "green", "red", "red")  # sorted by label, as folders are


def parquet(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"label": list(COLOURS), "caption": [caption(name) for name in COLOURS]}
    pq.write_table(pa.table({"image": [picture(name) for name in COLOURS], **columns}), folder / "images.parquet")
    return folder / "images.parquet"


def hive(folder: Path) -> Path:
    for name in sorted(set(COLOURS)):
        part = folder / "hive" / f"label={name}"
        part.mkdir(parents=True)
        pq.write_table(pa.table({"image": [picture(name)] * 2, "caption": [caption(name)] * 2}), part / "0.parquet")
    return folder / "hive"


def pictures(folder: Path) -> list[str]:
    """Write the pictures, in folders of their labels; return their names below `folder`."""
    names = []
    for row, name in enumerate(COLOURS):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{row}.png").write_bytes(picture(name))
        names.append(f"{name}/{row}.png")
    return names


def image_folder(folder: Path) -> Path:
    pictures(folder / "pictures")
    (folder / "pictures" / "README.md").write_text("not an image")
    return folder / "pictures"


def listed(name: str, image: str = "file_name", label: str = "label") -> Callable[[Path], Path]:
    """Return a function that writes a list of the pictures beside them."""

    def write(folder: Path) -> Path:
        rows = [
            {image: file, label: colour, "caption": caption(colour)}
            for file, colour in zip(pictures(folder / "data"), COLOURS, strict=True)
        ]
        delimiter = "\t" if name.endswith(".tsv") else ","
        text = "\n".join([delimiter.join(rows[0]), *(delimiter.join(row.values()) for row in rows)])
        lines = "\n".join(json.dumps(row) for row in rows)
        (folder / "data" / name).write_text(lines if name.endswith("jsonl") else text)
        return folder / "data" if name.startswith("metadata") else folder / "data" / name

    return write


def bare_list(folder: Path) -> Path:
    lines = [f"{name},{colour}" for name, colour in zip(pictures(folder), COLOURS, strict=True)]
    (folder / "bare.csv").write_text("\n".join(lines))
    return folder / "bare.csv"


def base64_list(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    texts = [base64.b64encode(picture(name)).decode() for name in COLOURS]
    texts[1] = f"data:image/png;base64,{texts[1]}"
    lines = [
        f'{row},"{text}",{name},{caption(name)}' for row, (text, name) in enumerate(zip(texts, COLOURS, strict=True))
    ]
    (folder / "in.csv").write_text("\n".join(["id,image,label,caption", *lines]))
    return folder / "in.csv"


def tar(*endings: str) -> Callable[[Path], Path]:
    """Return a function that writes a webdataset tar whose samples have these members beside the image."""

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "images.tar", "w") as file:
            for row, name in enumerate(COLOURS):
                add(file, f"{row:03d}.png", picture(name))
                facts = json.dumps({"label": name, "caption": caption(name), "side": 9, "box": {"x": 1}})
                texts = {"json": facts, "cls": name, "txt": name}
                for ending in endings:
                    add(file, f"{row:03d}.{ending}", texts[ending].encode())
        return folder / "images.tar"

    return write


def remote(write: Callable[[Path], Path]) -> Callable[[Path], str]:
    """Return a function that writes a source and copies it behind a URL."""

    def copy(folder: Path) -> str:
        place = write(folder / "local")
        store = fsspec.filesystem("memory")
        url = f"memory://{uuid.uuid4().hex}"
        store.put(str(folder / "local"), url, recursive=True)
        return f"{url}/{place.relative_to(folder / 'local')}"

    return copy


SOURCES: dict[str, Callable[[Path], Path | str]] = {
    "Parquet": parquet,
    "hive": hive,
    "folder": image_folder,
    "metadata.jsonl": listed("metadata.jsonl"),
    "metadata.csv": listed("metadata.csv"),
    "csv": listed("list.csv", "path"),
    "tsv": listed("list.tsv", "filepath", "class"),
    "jsonl": listed("list.jsonl", "image"),
    "csv without a header": bare_list,
    "base64": base64_list,
    "tar with cls": tar("cls"),
    "tar with txt": tar("txt"),
    "tar with json": tar("json"),
    "remote Parquet": remote(parquet),
    "remote hive": remote(hive),
    "remote folder": remote(image_folder),
    "remote csv": remote(listed("list.csv", "path")),
    "remote tar": remote(tar("cls", "json")),
}
CAPTIONED = [name for name in SOURCES if not any(word in name for word in ("folder", "header", "cls", "txt"))]
