"""What follows from the name of a file: its format and compression, its corpus, and whether it is a caption file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from rag_clip.files.locations import is_remote

SUFFIXES = {
    ".parquet": "parquet",
    **{
        ".csv": "csv",
        ".tsv": "tsv",
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".json": "json",
        ".txt": "txt",
        ".tar": "tar",
    },
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
PLACE = re.compile(
    r"(?:https?://[^\s,;|\"]+|[^\s,;|\"]+\.(?:jpe?g|png|webp|gif|bmp|tiff?)(?:#\d+)?)",
    re.IGNORECASE,
)
HIDDEN = re.compile(r"/[._]")
KNOWN = f"{', '.join(SUFFIXES)}, each also with .gz or .zst"


def format_of(name: str) -> tuple[str, str | None] | None:
    """Return (format, compression) from a file's name; None for another kind of file."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes[-2:]]
    if suffixes[-1:] == [".tgz"]:
        return "tar", "gzip"
    compression = COMPRESSIONS.get(suffixes.pop()) if suffixes and suffixes[-1] in COMPRESSIONS else None
    kind = SUFFIXES.get(suffixes[-1]) if suffixes else None
    return (kind, compression) if kind else None


def corpus_name(url: str) -> str:
    """Return the source of a file's rows: its stem without a shard number, or the folder of a numbered file."""
    path = PurePosixPath((urlsplit(url).path if is_remote(url) else url).replace("\\", "/"))
    stem = path.name
    while PurePosixPath(stem).suffix.lower() in {*SUFFIXES, *COMPRESSIONS, ".tgz"}:
        stem = PurePosixPath(stem).stem
    stem = re.sub(r"[-_.]\d+[-_.]of[-_.]\d+$", "", stem)
    numbered = re.fullmatch(r"\d+|part[-_.]?\d+([-_.].*)?", stem) is not None
    return path.parent.name if numbered and path.parent.name else stem


def fixed_part(pattern: str) -> str:
    """Return the part of a glob before the folder with the first wildcard; a path without wildcards as it is."""
    wildcard = re.search(r"[*?[]", pattern)
    return pattern[: pattern.rfind("/", 0, wildcard.start())] if wildcard else pattern


def choose_files(names: Iterable[str], root: str) -> list[str]:
    """Return the caption files among `names` below `root`, by the rules of `find_files`."""
    visible = {name for name in names if not HIDDEN.search(name, len(root)) and format_of(name)}
    rest = {name for name in visible if format_of(name) != ("tar", None) or f"{name[:-4]}.parquet" not in visible}
    documents = {name for name in rest if format_of(name)[0] == "json"}  # type: ignore[index]
    texts = {name for name in rest if format_of(name)[0] == "txt"}  # type: ignore[index]
    return sorted(rest - texts - documents or texts or documents)
