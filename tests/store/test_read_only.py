"""An index whose files may not be written to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from rag_clip.files.lock import BusyError, locked
from rag_clip.progress import silent
from rag_clip.store import caption_id, create_store, load_schema, open_store
from rag_clip.store.read_only import copy_index
from rag_clip.testing import ToyEncoder

CAPTIONS = ["a red thing", "a blue thing"]
READ = """
import os, sys, tempfile
from rag_clip.store import StoreError, open_store
with open_store(sys.argv[1]) as store:
    [hits] = store.search(texts=["blue"], mode="lexical", limit=1)
    print([hit.text for hit in hits], store.count())
    try:
        store.note("check", {})
    except StoreError as error:
        print(error)
print(os.listdir(tempfile.gettempdir()))
"""


@pytest.fixture
def index(tmp_path: Path) -> Path:
    encoder = ToyEncoder()
    with create_store(tmp_path / "index", schema=load_schema(), encoder=encoder.fingerprint, dim=encoder.dim) as store:
        vectors = pa.array(list(encoder.encode_text(CAPTIONS).numpy()), pa.list_(pa.float32()))
        ids = [caption_id("toy", text) for text in CAPTIONS]
        store.upsert(
            pa.RecordBatch.from_pydict({"id": ids, "text": CAPTIONS, "source": ["toy"] * 2, "vector": vectors})
        )
        store.optimise(silent)
    return tmp_path / "index"


def without_rights() -> list[str]:
    """Return how to run a command that the modes of files bind, for root too."""
    if os.getuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root writes to any file, and there is no setpriv to take that from a child")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def test_an_index_without_write_permission_is_searched_and_left_as_it_is(index: Path, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    places = [index, *index.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    times = [place.stat().st_mtime_ns for place in places]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command = [*without_rights(), sys.executable, "-c", READ, str(index)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for place in places:
        place.chmod(0o755)
    assert done.stdout.splitlines() == [
        "['a blue thing'] 2",
        f"the index at {index} may not be written to; it can only be read from",
        "[]",
    ], done.stderr
    assert [place.stat().st_mtime_ns for place in places] == times
    assert [place for place in index.rglob("*") if place not in places] == []


def test_an_index_is_not_copied_while_another_process_has_it_open(index: Path, tmp_path: Path) -> None:
    with (
        locked(index / "lock", doing="test"),
        pytest.raises(BusyError, match=rf"cannot read the index at .*: process {os.getpid()} is at it"),
    ):
        copy_index(index, tmp_path)


def test_a_copy_holds_the_same_bytes_and_keeps_the_holes(index: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    copy_index(index, tmp_path / "copy")
    for file in (file for file in (index / "shard").rglob("*") if file.is_file()):
        copied = tmp_path / "copy" / file.relative_to(index)
        assert copied.read_bytes() == file.read_bytes()
        assert copied.stat().st_blocks <= file.stat().st_blocks + 16


def test_a_folder_called_shard_that_is_none_of_ours_is_kept(tmp_path: Path) -> None:
    thesis = tmp_path / "index" / "shard" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("words")
    encoder = ToyEncoder()
    with pytest.raises(ValueError, match=r"shard holds thesis\.txt, which is no part of an index"):
        create_store(tmp_path / "index", schema=load_schema(), encoder=encoder.fingerprint, dim=encoder.dim)
    assert thesis.read_text() == "words"
    with pytest.raises(FileNotFoundError):
        open_store(tmp_path / "other")
