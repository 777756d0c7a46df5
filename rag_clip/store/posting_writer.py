"""Writing the postings of an index (see store.postings) from its captions in the order of ids."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rag_clip.files.folders import sync_folder
from rag_clip.files.sealed import file_checksum
from rag_clip.store.postings import FACTS, VECTORS, VERSION, split


def write_postings(
    pages: Iterable[pa.RecordBatch], folder: Path, *, key: str, shape: tuple[int, int], column: str, dtype: str
) -> None:
    """Write postings to a folder, replacing it only once they are complete.

    pages: columns id, text and source, and vectors; in the order of ids.
    folder: what is there is replaced; unfinished content lies beside it in NAME.part.
    key: identifies the index.
    shape: the number of captions, and the width of their vectors.
    column: of the vectors.
    dtype: of the vectors, as the index stores them.

    Raises ValueError for another number of captions.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        lengths = _write(pages, part, shape, column, dtype)
        sizes = {"count": len(lengths), "wordy": int(np.count_nonzero(lengths)), "words": int(lengths.sum())}
        files = {file.name: [file.stat().st_size, file_checksum(file)] for file in sorted(part.iterdir())}
        facts = {"version": VERSION, "key": key, **sizes, "files": files}
        (part / FACTS).write_text(json.dumps(facts, indent=2), encoding="utf-8")
        for file in part.iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        sync_folder(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write(pages: Iterable[pa.RecordBatch], part: Path, shape: tuple[int, int], column: str, dtype: str) -> np.ndarray:
    """Write all arrays; returns the number of words of each caption."""
    codes: dict[str, int] = {}
    sources: dict[str, int] = {}
    ids, texts, source_rows, lengths, words = [], [], [], [], []
    vectors = np.lib.format.open_memmap(part / VECTORS, mode="w+", dtype=dtype, shape=shape)
    done = 0
    for page in pages:
        if done + len(page) > shape[0]:
            raise ValueError(f"the index has more than {shape[0]} captions")
        vectors[done : done + len(page)] = page.column(column).flatten().to_numpy().reshape(len(page), -1)
        done += len(page)
        split_texts = split(page.column("text"))
        flat = split_texts.flatten()
        words.append(_encode(flat.filter(pc.not_equal(flat, "")), codes))
        wordless = pc.equal(pc.list_element(split_texts, 0), "")
        lengths.append(pc.list_value_length(split_texts).to_numpy() * ~wordless.to_numpy(zero_copy_only=False))
        ids.append(np.array(page.column("id").to_pylist(), "S36"))
        source_rows.append(_encode(page.column("source"), sources))
        texts.append(page.column("text").cast(pa.large_string()))
    if done != shape[0]:
        raise ValueError(f"the index has {done} captions, not {shape[0]}")
    vectors.flush()
    every = np.concatenate(lengths).astype(np.int32)
    np.save(part / "ids.npy", np.concatenate(ids))
    np.save(part / "source_rows.npy", np.concatenate(source_rows))
    np.save(part / "lengths.npy", every)
    _write_texts(part, "texts", pa.chunked_array(texts).combine_chunks())
    _write_texts(part, "sources", pa.array(sources, pa.large_string()))
    _invert(part, codes, np.concatenate(words), every)
    return every


def _encode(values: pa.Array, codes: dict[str, int]) -> np.ndarray:
    """Return the code of each value, int32; new values get the next codes."""
    page = values.dictionary_encode()
    known = [codes.setdefault(value, len(codes)) for value in page.dictionary.to_pylist()]
    found: np.ndarray = np.array(known, np.int32)[page.indices.to_numpy()]
    return found


def _invert(part: Path, codes: dict[str, int], words: np.ndarray, lengths: np.ndarray) -> None:
    """Write the words in their order, and for each the captions that hold it, with how often they do."""
    order = sorted(codes)
    ranks = np.empty(len(order), np.int32)
    ranks[[codes[word] for word in order]] = np.arange(len(order), dtype=np.int32)
    words, rows = ranks[words], np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    sorting = np.argsort(words, kind="stable")
    words, rows = words[sorting], rows[sorting]
    first = np.flatnonzero(np.r_[True, (words[1:] != words[:-1]) | (rows[1:] != rows[:-1])][: len(words)])
    np.save(part / "rows.npy", rows[first])
    np.save(part / "counts.npy", np.diff(np.r_[first, len(words)]).astype(np.int32))
    np.save(part / "starts.npy", np.searchsorted(words[first], np.arange(len(order) + 1)))
    _write_texts(part, "words", pa.array(order, pa.large_string()))


def _write_texts(part: Path, name: str, texts: pa.LargeStringArray) -> None:
    """Write texts as one buffer of UTF-8 and the offsets in it."""
    _, offsets, content = texts.buffers()
    np.save(part / f"{name}.npy", np.frombuffer(offsets, np.int64)[: len(texts) + 1])
    (part / f"{name}.utf8").write_bytes(b"" if content is None else content)
