"""What is no regular file is refused before it is opened."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rag_clip.files.regular import is_regular, open_regular, read_regular


def test_regular_files_are_read_through_links_too(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    assert [is_regular(tmp_path / name) for name in ("a", "link", "none", ".")] == [True, True, False, False]
    assert read_regular(str(tmp_path / "link")) == b"abc"


def test_pipes_sockets_and_devices_are_refused_and_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name in ("pipe", "zero", "socket"):
            for use in (is_regular, open_regular, read_regular):
                with pytest.raises(
                    OSError, match=f"^{name} is a pipe, a socket or a device, which is not read; write "
                ):
                    use(name)


def test_a_folder_and_a_missing_file_cannot_be_opened(tmp_path: Path):
    with pytest.raises(IsADirectoryError, match="is a folder; give a file"):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
