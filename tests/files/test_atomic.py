"""Files that appear whole, and places that one process at a time writes to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rag_clip.files.atomic import partial_of, remove_stale, replacing, scratch_folder
from rag_clip.files.lock import BusyError, lock_of, locked

DIE = """
import os, sys
from pathlib import Path
from rag_clip.files import atomic, lock
path = Path(sys.argv[1])
with {block} as place:
    {work}
    os.kill(os.getpid(), 9)
"""


def killed(path: Path, block: str, work: str = "pass", **environment: str) -> None:
    command = [sys.executable, "-c", DIE.format(block=block, work=work), str(path)]
    done = subprocess.run(command, env={**os.environ, **environment}, check=False)
    assert done.returncode == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_in_a_folder_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "out.txt"
    with replacing(path) as partial:
        assert partial == path.with_name(".out.txt.partial")
        partial.write_text("new")
        assert not path.exists()
    assert (path.read_text(), names(path.parent)) == ("new", ["out.txt"])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_after_an_error_the_old_file_is_there_and_nothing_beside_it(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (path.read_text(), names(tmp_path)) == ("old", ["out.txt"])


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    killed(path, "atomic.replacing(path)", "place.write_text('much longer than what follows')")
    assert names(tmp_path) == [".out.txt.partial"]
    with replacing(path) as partial:
        partial.write_text("new")
    assert (path.read_text(), names(tmp_path)) == ("new", ["out.txt"])
    killed(path, "atomic.replacing(path)", "place.write_text('half')")
    remove_stale(path)
    assert (path.read_text(), names(tmp_path)) == ("new", ["out.txt"])


def test_a_second_writer_waits_for_the_first_and_what_a_live_one_writes_is_not_removed(tmp_path: Path) -> None:
    path, order = tmp_path / "out.txt", []

    def write() -> None:
        with replacing(path) as partial:
            order.append("second")
            partial.write_text("second")

    second = threading.Thread(target=write)
    with replacing(path) as partial:
        second.start()
        partial.write_text("first")
        remove_stale(path)
        assert partial.read_text() == "first"
        order.append("first")
    second.join()
    assert (order, path.read_text(), names(tmp_path)) == (["first", "second"], "second", ["out.txt"])


def test_a_long_name_leaves_room_for_the_unfinished_file(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 125)
    with replacing(path) as partial:
        partial.write_text("new")
    assert names(tmp_path) == [path.name]
    assert partial_of(path) != partial_of(tmp_path / ("é" * 124))


def test_a_lock_names_its_holder_and_is_gone_after_the_last(tmp_path: Path) -> None:
    lock = lock_of(tmp_path / "out.txt")
    with locked(lock, doing="test"):
        with pytest.raises(BusyError, match=rf"cannot write out: process {os.getpid()} is at it; wait .*\.lock\)"):
            locked(lock, doing="write out").__enter__()
        assert names(tmp_path) == [".out.txt.lock"]
    assert names(tmp_path) == []
    with locked(lock, doing="test", shared=True):
        with locked(lock, doing="test", shared=True):
            pass
        with pytest.raises(BusyError, match="another process is at it"):
            locked(lock, doing="test").__enter__()
    assert names(tmp_path) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    killed(lock, "lock.locked(path, doing='die')")
    assert names(tmp_path) == ["lock"]
    with locked(lock, doing="test"):
        assert lock.read_text() == f"process {os.getpid()}"
    assert names(tmp_path) == []


def test_scratch_of_a_killed_process_goes_and_that_of_a_live_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed(tmp_path, "atomic.scratch_folder()", "(place / 'features').write_text('x')", TMPDIR=str(tmp_path))
    left = names(tmp_path)
    assert len(left) == 2
    with scratch_folder() as first:
        (first / "features").write_text("y")
        with scratch_folder() as second:
            assert (first / "features").read_text() == "y"
            assert not set(left) & set(names(tmp_path))
        assert not second.exists()
    assert names(tmp_path) == []
