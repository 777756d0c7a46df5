"""The one reader of webdataset tars: samples in order, forwards, and what damage leaves of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

import pytest

from rag_clip.files.webdataset import MAX_TEXT_BYTES, DamagedTarError, Sample, read_samples

PLAIN = {"a/1.jpg": b"image", "a/1.txt": b"one", "2.txt": b"two", "2.JSON": b"{}", "3.txt": b"three"}


def tar_of(members: Mapping[str, bytes], *, links: Mapping[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return stream.getvalue()


class Pipe(io.BytesIO):
    """A stream that cannot be sought, as a compressed or a remote one."""

    def seekable(self) -> bool:
        return False

    def seek(self, position: int, whence: int = 0) -> int:
        raise io.UnsupportedOperation("seek")


def contents(samples: list[Sample]) -> list[tuple[str, dict[str, bytes | None]]]:
    return [(sample.key, {member.ending: member.content for member in sample.members}) for sample in samples]


@pytest.mark.parametrize("stream", [io.BytesIO, Pipe])
def test_samples_are_consecutive_members_of_a_key_with_the_contents_of_their_texts(stream: type[io.BytesIO]):
    samples = list(read_samples(stream(tar_of(PLAIN)), texts=True))
    assert contents(samples) == [
        ("a/1", {"jpg": None, "txt": b"one"}), ("2", {"txt": b"two", "json": b"{}"}), ("3", {"txt": b"three"}),
    ]  # fmt: skip
    assert all(sample.whole for sample in samples)


def test_members_say_where_their_bytes_lie():
    data = tar_of(PLAIN)
    members = [member for sample in read_samples(io.BytesIO(data), texts=False) for member in sample.members]
    assert {member.name: data[member.offset : member.offset + member.size] for member in members} == PLAIN
    assert {member.content for member in members} == {None}


def test_members_that_are_no_plain_files_or_lead_out_are_marked():
    names = {"/abs.txt": b"", "a/../../b.txt": b"", "\\c.txt": b"", "d..e.txt": b""}
    [*files, link] = read_samples(io.BytesIO(tar_of(names, links={"f.jpg": "/etc/passwd"})), texts=True)
    assert [file.members[0].leads_out for file in files] == [True, True, True, False]
    assert [link.members[0].regular, files[0].members[0].regular] == [False, True]


def test_a_text_beyond_the_limit_has_no_content():
    data = tar_of({"1.txt": b"x" * (MAX_TEXT_BYTES + 1), "2.txt": b"x" * MAX_TEXT_BYTES})
    first, second = (sample.members[0] for sample in read_samples(io.BytesIO(data), texts=True))
    assert (first.content, first.size) == (None, MAX_TEXT_BYTES + 1)
    assert second.content == b"x" * MAX_TEXT_BYTES


def damaged(data: bytes, how: str) -> bytes:
    place = data.index(b"2.JSON")
    if how == "no end":
        return data[: data.index(b"three") + 512]
    return data[:place] if how == "cut" else data[:place] + b"\xff" * 512 + data[place + 512 :]


@pytest.mark.parametrize(("how", "keys"), [("cut", "a/1 2"), ("overwritten", "a/1 2"), ("no end", "a/1 2 3")])
def test_damage_comes_after_the_samples_before_it_and_the_last_is_not_whole(how: str, keys: str):
    samples: list[Sample] = []
    reading = read_samples(io.BytesIO(damaged(tar_of(PLAIN), how)), texts=True)
    with pytest.raises(DamagedTarError, match="no valid header at byte"):
        samples.extend(reading)
    assert [sample.key for sample in samples] == keys.split()
    assert [sample.whole for sample in samples] == [True] * (len(samples) - 1) + [False]


def test_what_is_no_tar_is_refused():
    with pytest.raises(tarfile.ReadError):
        list(read_samples(io.BytesIO(b"\x1f\x8b" + bytes(600)), texts=True))
