"""Which outputs a run may write: never over an input or over other programs' files, and never while another run writes.

A verb recognises its own files by their content: the metadata of Parquet and safetensors files, the keys of JSON
prompts, the generator tag of a page, the first line of TOML. A folder is ours if all names in it are names that we
give.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.files.atomic import remove_stale
from rag_clip.files.locations import is_remote
from rag_clip.files.lock import lock_of, locked
from rag_clip.files.regular import is_regular

FOLDERS: Mapping[str, re.Pattern[str]] = {
    "index": re.compile(r"card\.json(\.part)?|lock|shard|postings(\.part)?"),
    "features": re.compile(r"[0-9a-f]{16}"),
    "parts": re.compile(r"[0-9a-f]{16}|output\.parquet"),
    "runs": re.compile(r"[0-9a-f]{16,64}(\.images)?\.parquet"),
    "shards": re.compile(
        r"[0-9a-f]{32}\.(json|parquet)|[0-9a-f]{16}|counts-[0-9a-f]{16}(\.lock)?|lock(-\d+-of-\d+)?|loaded|dropped"
        r"|failed\.parquet|tmp\w{8}"
    ),
    "clip-benchmark": re.compile(r"(classnames|templates)\.json"),
    "overlays": re.compile(r"\d{6,}-masks\.png"),
    "model": re.compile(
        r"open_clip_config\.json|open_clip_model\.safetensors|bpe\.txt\.gz|adapt\.json|loss\.png|captions\.parquet|match\.\w+"
    ),
    "training": re.compile(r"checkpoint\.pt|pixels|bpe\.txt\.gz"),
    "pixels": re.compile(r"[0-9a-f]{16}|lock"),
    "paintings": re.compile(r"[0-9a-f]{32}\.parquet|lock"),
    "download": re.compile(r"round-\d{3,}(\.parquet)?|download\.lock|img2dataset\.log"),
    "demo": re.compile(
        r"(labels\.json|(corpus|truth|test|validation|pictures|support)\.parquet|(prompts|predictions)-\w+\.parquet(\.vectors)?"
        r"|(index|images)(\.shards)?|features|(report|classes)\.html|examples\.png|lock|predictions-\w+\.parquet\.parts)"
    ),
}
"""The kinds of folders that verbs write, with the names that occur in each; other makers are verbs that write files."""

MARKS: Mapping[str, str] = {"model": "adapt.json", "clip-benchmark": "templates.json"}
"""The file that a folder of a kind must have to be ours, for kinds whose names others give too."""

Outputs = Sequence[tuple[str | Path | None, str]]
Inputs = Iterable[str | Path | Iterable[str | Path | None] | None]
SUPPORT = {
    "shots": "shots",
    "retrieved": "retrieve",
    "synthesised": "synthesise",
    "corrected": "corrections",
    "merged": "merge",
}
TENSORS = {
    "rag_clip.learned_prompts": "learn",
    "rag_clip.evidence": "support evidence",
    "rag_clip.classifier": "export",
}
IN_NPZ = "rag_clip_classifier"  # the array of an exported .npz file that only ours have
PRODUCER = "rag-clip export"  # of an exported .onnx file
GENERATOR = '<meta name="generator" content="rag-clip {}">'
_GENERATED = re.compile(rb'<meta name="generator" content="rag-clip ([a-z ]+)">')
_EVALUATED = re.compile(rb"rag-clip [0-9.]+\w*</p></header>")  # in pages of 0.1.0, which have no generator tag
RESULTS = {b"rag_clip.results", b"rag_clip.retrieval", b"rag_clip.captioning", b"rag_clip.segmentation"}
CORRECTIONS = b"rag_clip.corrections"
_COMMENT = re.compile(rb"# made by rag-clip ([a-z ]+)\n")
_PAGE_HEAD = 1 << 16


@contextmanager
def holding(outputs: Outputs, *, inputs: Inputs = (), force: bool = False) -> Iterator[None]:
    """Check the outputs with `check_outputs`, and lock the files among them until the block ends.

    Unfinished content that a killed run left is deleted. Raises as `check_outputs` does, and BusyError if another run
    writes one of the files.
    """
    check_outputs(outputs, inputs=inputs, force=force)
    files = sorted(Path(place) for place, maker in outputs if place is not None and maker not in FOLDERS)
    with ExitStack() as stack:
        for path in files:
            stack.enter_context(locked(lock_of(path), doing=f"write {path}"))
            remove_stale(path)
        yield


def check_outputs(outputs: Outputs, *, inputs: Inputs = (), force: bool = False) -> None:
    """Refuse outputs that a run must not write, before it does any work.

    outputs: paths, each with the verb that writes the file ("support shots") or the kind of folder (see FOLDERS); None
        and URLs are skipped.
    inputs: files, folders whose files are read, glob patterns, and lists of these; None and URLs are skipped.
    force: allow overwriting other programs' files and folders, but never an input.

    Raises ValueError for an output that is an input, by whatever name, or lies in an input folder; for two outputs that
    are one; for a folder in the place of a file or the reverse; for a file that another verb or another program wrote,
    and a folder with files of other programs. Raises OSError for an input that is a pipe, a socket or a device,
    PermissionError where nothing may be written, and BusyError where another run holds the file.
    """
    read = [found for one in _flat(inputs) if not is_remote(one) for found in _expand(one)]
    for path in read:
        is_regular(path)
    written = [(Path(place), maker) for place, maker in outputs if place is not None and not is_remote(place)]
    for number, (path, maker) in enumerate(written):
        _check_inputs(path, read)
        for other, _ in written[:number]:
            if _is_same(path, other):
                raise ValueError(f"{path} and {other} are the same place; name two different ones")
        _check_parents(path)
        if maker in FOLDERS:
            _check_folder(path, maker, force)
        else:
            _check_file(path, maker, force)


def remove_folder(folder: Path, kind: str) -> None:
    """Delete the entries of a folder that belong to its kind (see FOLDERS), and the folder if it is then empty."""
    for entry in list(folder.iterdir()):
        if FOLDERS[kind].fullmatch(entry.name) or entry.suffix in (".partial", ".lock"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def made_by(path: Path) -> str:
    """Return the verb that wrote a file, such as "support shots"; '' for any other file.

    Predictions whose rows or columns were changed are no longer recognised.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_PAGE_HEAD)
            if head.startswith(b"PAR1"):
                return _made_parquet(path)
            if head.startswith(b"PK"):
                return "export" if f"{IN_NPZ}.npy" in ZipFile(path).namelist() else ""
            if PRODUCER.encode() in head[:64]:
                return "export"
            if commented := _COMMENT.match(head):
                return commented[1].decode()
            if head.lstrip().startswith(b"<"):
                found = _GENERATED.search(head)
                return found[1].decode() if found else "evaluate" if _EVALUATED.search(head) else ""
            if head.lstrip().startswith(b"{"):
                document = json.loads(head + file.read())
                return "enhance" if {"provenance", "classes"} <= document.keys() else ""
            size = int.from_bytes(head[:8], "little")
            header = json.loads((head + file.read(max(0, 8 + size - len(head))))[8 : 8 + size])
            metadata = header.get("__metadata__", {})
            return next((verb for key, verb in TENSORS.items() if key in metadata), "")
    except (
        OSError,
        ValueError,
        BadZipFile,
        OverflowError,
        MemoryError,
        AttributeError,
        TypeError,
        RecursionError,
    ):
        return ""


def _made_parquet(path: Path) -> str:
    try:
        whole = pq.read_metadata(path)
    except pa.ArrowException:
        return ""
    metadata: Mapping[bytes, bytes] = whole.metadata or {}
    facts = _facts(metadata, b"rag_clip")
    if "prompts" in facts and "columns" in facts:
        columns = whole.schema.to_arrow_schema().names
        same = columns[-len(facts["columns"]) :] == facts["columns"] and facts.get("rows") == whole.num_rows
        return "classify" if same else ""
    if b"rag_clip.masks" in metadata:
        return "segment"
    if RESULTS & metadata.keys():
        return "evaluate"
    if CORRECTIONS in metadata:
        return "serve"
    if b"rag_clip.prompts" in metadata:
        return "enhance"
    method = _facts(metadata, b"rag_clip.support").get("provenance", {}).get("method")
    return f"support {SUPPORT[method]}" if method in SUPPORT else ""


def _facts(metadata: Mapping[bytes, bytes], key: bytes) -> dict[str, Any]:
    facts = json.loads(metadata.get(key, b"{}"))
    return facts if isinstance(facts, dict) else {}


def _flat(inputs: Inputs) -> Iterator[str | Path]:
    for place in inputs:
        if isinstance(place, str | Path):
            yield place
        elif place is not None:
            yield from _flat(place)


def _expand(place: str | Path) -> list[Path]:
    """Return the path itself; for a glob pattern the files that it matches, or for `**` the folder that it searches."""
    path = Path(place)
    if os.path.lexists(path) or not set("*?[") & set(str(place)):
        return [path]
    parts = path.parts
    first = next(number for number, part in enumerate(parts) if set("*?[") & set(part))
    root = Path(*parts[:first])
    return [root] if "**" in parts else list(root.glob(str(Path(*parts[first:]))))


def _is_same(path: Path, other: Path) -> bool:
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return path.samefile(other)  # true for hard links, and on file systems that ignore case
    except OSError:
        return False


def _check_inputs(path: Path, inputs: Sequence[Path]) -> None:
    real = Path(os.path.realpath(path))
    for other in inputs:
        if _is_same(path, other):
            raise ValueError(f"the output {path} is one of the inputs, {other}; name another place")
        if other.is_dir() and real.is_relative_to(os.path.realpath(other)):
            raise ValueError(f"the output {path} lies in the input folder {other}; name a place outside it")


def _check_parents(path: Path) -> None:
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir():
        raise ValueError(f"the output {path} cannot lie in {there}, which is a file; name another place")
    if not os.access(there, os.W_OK | os.X_OK) and not path.is_dir():
        raise PermissionError(f"cannot write {path}: {there} is not writable; name another place")


def _check_file(path: Path, verb: str, force: bool) -> None:
    if path.is_dir():
        raise ValueError(f"the output {path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise ValueError(f"the output {path} is no regular file; name another")
    if lock_of(path).exists():
        with locked(lock_of(path), doing=f"write {path}"):
            pass
    if path.exists() and not force and made_by(path) != verb:
        raise ValueError(
            f"{path} exists and was not written by `rag-clip {verb}`; name another file, or replace it with --force "
            "(in Python force=True, or running=Running(force=True))"
        )


def _check_folder(path: Path, kind: str, force: bool) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder for the {kind}")
    if not path.exists() or force or (kind == "index" and (path / "card.json").is_file()):
        return
    foreign = sorted(
        entry.name
        for entry in path.iterdir()
        if not entry.name.startswith(".") and not FOLDERS[kind].fullmatch(entry.name)
    )
    if not foreign and kind in MARKS and not (path / MARKS[kind]).exists():
        foreign = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if foreign:
        what = {"index": "an index", "model": "a model that was adapted or merged"}.get(kind, f"a folder of {kind}")
        raise ValueError(
            f"{path} is not empty ({foreign[0]}) and not {what}; name a new or empty folder, or use it with --force "
            "(in Python force=True, or running=Running(force=True))"
        )
