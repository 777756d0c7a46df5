"""The identity of a file, and keys of what is made of it: those of version 0.1.0, so that its folders are taken up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rag_clip.captions.shards import shard_key
from rag_clip.captions.sources.finding import Columns, SourceFile
from rag_clip.data import Fingerprint
from rag_clip.files.features import open_features
from rag_clip.files.identity import FileIdentity, file_states, hash_facts, identify, identify_remote

ENCODER = Fingerprint(model="toy", pretrained="", weights="w", preprocessing="p")


def test_a_file_is_its_resolved_place_size_and_time_of_change(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"four")
    os.utime(path, ns=(1, 1_700_000_000_000_000_001))
    (tmp_path / "link").symlink_to(path)
    found = identify(tmp_path / "link")
    assert found == FileIdentity(str(path.resolve()), (4, 1_700_000_000_000_000_001))
    assert found.facts == (str(path.resolve()), 4, 1_700_000_000_000_000_001)
    assert str(found) == f"{path.resolve()} 4 1700000000000000001"
    assert found.first_rows(3).state == (4, 1_700_000_000_000_000_001, "first 3 rows")
    assert list(file_states(tmp_path, ["a.parquet", "gone"])) == [("a.parquet", "4 1700000000000000001"), ("gone", "")]
    with pytest.raises(FileNotFoundError):
        identify(tmp_path / "gone")


def test_a_remote_file_is_its_open_address_and_its_tag_or_else_its_times() -> None:
    tagged = identify_remote("s3://b/i.parquet?key=secret", {"size": 77, "ETag": "abc", "LastModified": "today"})
    assert tagged == FileIdentity("s3://b/i.parquet?hidden=c28002e9", ("77 abc",))
    assert identify_remote("s3://b/i.parquet", {"size": 77, "LastModified": "today"}).state == ("77 today",)


def test_keys_are_those_of_0_1_0() -> None:
    caption = FileIdentity("/tmp/example/in/c.parquet", (769, 1796036541457709329))
    assert caption.digest == "e38185ca34b30ae1d87578ea1270c8d0"
    local = FileIdentity("/data/images.parquet", (1234, 1700000000000000000))
    remote = FileIdentity("s3://b/i.parquet", ("77 abc",))
    folders = [
        open_features("/r", encoder=ENCODER, source=source, column="image", rows=3, dim=4).folder
        for source in (local, remote)
    ]
    assert [folder.name for folder in folders] == ["b673b440889c8f92", "a25b7a9e05c0c121"]
    columns = Columns("text")
    source = SourceFile("/data/web.parquet", "parquet", None, 1234, "0123456789abcdef", columns, 3, ())
    assert shard_key(source, 4, 16, "settings", ENCODER) == "ded988cd42be090e051f860b16b01b03"


def test_facts_are_hashed_whatever_their_order_in_a_dictionary() -> None:
    assert hash_facts({"a": 1, "b": [2]}) == hash_facts({"b": [2], "a": 1}) == "ae8a9a5052464275"
    assert hash_facts({"a": 1, "b": [2]}, digits=32).startswith("ae8a9a5052464275")
