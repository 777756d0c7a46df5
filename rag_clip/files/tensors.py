"""Our `.safetensors` files: tensors, with facts as JSON in the metadata and a checksum over both."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.reading import parse_json

SEAL = "rag_clip.checksum"
SUFFIX = ".safetensors"


def check_tensors_path(path: Path, *, what: str, example: str) -> None:
    """Raise ValueError for a folder, and for another suffix than .safetensors; `what` is such as "evidence is in"."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file, such as {path / example}{SUFFIX}")
    if path.suffix.lower() != SUFFIX:
        raise ValueError(f"{path}: {what} {SUFFIX} files, found suffix {path.suffix!r}")


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path, *, key: str, facts: Mapping[str, Any]) -> None:
    """Write tensors, and facts under a `key` of the metadata; replaces the file only once it is complete.

    Makes the folder if it is missing. Raises OSError if the disk is full; an old file then stays as it was.
    """
    kept = {name: values.cpu().contiguous() for name, values in tensors.items()}
    content = json.dumps(dict(facts), ensure_ascii=False)
    with disk_errors(path), replacing(path) as partial:
        save_file(kept, partial, metadata={key: content, SEAL: _checksum(content, kept.values())})


def read_tensors(
    path: Path, *, key: str, names: Iterable[str] | None = None, foreign: str, again: str, sealed: bool = True
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of a file, on the CPU, and the facts that were written with them.

    path: the file.
    key: that of the facts.
    names: the tensors to read, in the order of the checksum; by default all, in that of their names.
    foreign: what to say of a file without the key or a tensor.
    again: what to do about a damaged file.
    sealed: refuse a file without a checksum.

    Raises ValueError, without the file's name, for such files and for facts without a provenance; SafetensorError for
    what is no safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        metadata, there = file.metadata() or {}, sorted(file.keys())
        content, order = metadata.get(key), there if names is None else list(names)
        if content is None or set(order) - set(there):
            raise ValueError(foreign)
        tensors = {name: file.get_tensor(name) for name in order}
    if (sealed or SEAL in metadata) and metadata.get(SEAL) != _checksum(content, tensors.values()):
        raise ValueError(f"is damaged (its checksum differs); {again}")
    facts = parse_json(content)
    if not isinstance(facts, dict) or not isinstance(facts.get("provenance"), dict):
        raise ValueError(f"has metadata without its provenance; {again}")
    return tensors, facts


def _checksum(content: str, tensors: Iterable[torch.Tensor]) -> str:
    crc = zlib.crc32(content.encode())
    for values in tensors:
        crc = zlib.crc32(values.numpy().tobytes(), zlib.crc32(repr(tuple(values.shape)).encode(), crc))
    return str(crc)
