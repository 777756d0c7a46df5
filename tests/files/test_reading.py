"""What may be wrong with a file is a ValueError of one sentence, never another exception."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_clip.files.reading import (
    metadata_document,
    parse_json,
    parse_toml,
    read_arrays,
    read_schema,
    read_table,
    read_toml,
    typed_columns,
)

DEEP = "nests values deeper than 100 levels; flatten it"


@pytest.mark.parametrize("levels", [101, 5_000, 200_000])
def test_json_and_toml_nested_too_deep_are_refused(levels: int) -> None:
    lists = "[" * levels + "]" * levels
    for content in (lists, '{"a": ' + lists + "}"):
        with pytest.raises(ValueError, match=DEEP):
            parse_json(content.encode())
    with pytest.raises(ValueError, match=DEEP):
        parse_toml(f"a = {lists}".encode())


def test_json_may_be_a_hundred_levels_deep() -> None:
    document = parse_json(b"[" * 100 + b"]" * 100)
    for _ in range(99):
        (document,) = document
    assert document == []


@pytest.mark.parametrize("content", ["{} = 1", "[{}]\nx = 1", "a = {{ {} = 1 }}", "x = 1\n  [[ {} ]]"])
def test_toml_keys_of_many_parts_are_refused_before_they_take_seconds(content: str) -> None:
    with pytest.raises(ValueError, match=DEEP):
        parse_toml(content.format(".".join(["a"] * 50_000)).encode())
    assert parse_toml(f'x = "{"a." * 500}"'.encode()) == {"x": "a." * 500}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON: Expecting property name"),
        (b"\xff\xfe{}", "is not UTF-8, byte 0 is 0xff; save it as UTF-8"),
        (b'["\\ud800x"]', r"text '\\ud800x', which is not valid Unicode: half a surrogate pair at character 0"),
        (b'{"a": {"\\udfff": 1}}', "half a surrogate pair"),
    ],
)
def test_what_is_no_json_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(content)


def test_json_and_toml_are_read_with_a_mark_and_beyond_ascii() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": ["\xc3\xa9", "\\ud83d\\ude00"]}') == {"a": ["é", "😀"]}
    assert parse_toml(b'\xef\xbb\xbfa = "\xc3\xa9"') == {"a": "é"}


def test_a_toml_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a = [")
    with pytest.raises(ValueError, match=r"a\.toml is not valid TOML: Invalid value"):
        read_toml(tmp_path / "a.toml")


def written(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_damaged_parquet_file_is_said_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", a=[f"text {row}" for row in range(1000)])
    whole = path.read_bytes()
    message = r"\Ais not a readable Parquet file \([^\n]+\); write it again\Z"
    for damaged in (b"", whole[:100], b"\xef\xbb\xbf" + whole, whole[:-200] + bytes(200)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=message):
            read_table(path)
    with pytest.raises(ValueError, match=message):
        read_schema(path)


def test_texts_of_a_parquet_file_that_are_no_unicode_are_damage(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([b"ok", b"\xff\xfe"]).view(pa.string())})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="Invalid UTF8"):
        read_table(tmp_path / "a.parquet")


def test_a_column_that_stands_twice_or_is_missing_is_named(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has two columns 'a'; rename one"):
        read_table(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has no column 'c'; it has b"):
        read_table(written(tmp_path / "b.parquet", b=[1]), ["c"])


def test_columns_are_brought_to_their_types_or_refused() -> None:
    schema = pa.schema([pa.field("name", pa.string(), nullable=False), ("score", pa.float32())])
    table = pa.table({"name": pa.array(["a", "b"]).dictionary_encode(), "score": [1, None], "more": [0, 0]})
    assert typed_columns(table, schema).to_pylist() == [{"name": "a", "score": 1.0}, {"name": "b", "score": None}]
    assert typed_columns(table.select(["name"]), schema, optional=["score"]).column_names == ["name"]
    for columns, message in (
        ({"name": ["a", None], "score": [1.0, 2.0]}, "has no 'name' in row 2; delete the row, or fill it in"),
        ({"name": [["a"]], "score": [1.0]}, "column 'name' does not hold string values: Unsupported cast"),
        ({"name": ["a"], "score": ["high"]}, "column 'score' does not hold float values: Failed to parse"),
        ({"name": ["a"]}, "has no column 'score'; it has name"),
    ):
        with pytest.raises(ValueError, match=message):
            typed_columns(pa.table(columns), schema)


def test_metadata_is_an_object_or_refused() -> None:
    def read(content: str) -> object:
        return metadata_document(pa.schema([], metadata={"k": content}), b"k")

    assert read('{"a": 1}') == {"a": 1}
    assert metadata_document(pa.schema([]), b"k") is None
    for content, message in (("[1]", "'k' is not a JSON object"), ("{", "its metadata 'k' is not valid JSON")):
        with pytest.raises(ValueError, match=message):
            read(content)


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def test_arrays_come_back_and_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(npz(image=np.eye(2)))
    assert {name: values.tolist() for name, values in read_arrays(path).items()} == {"image": [[1, 0], [0, 1]]}
    for content in (npz(image=np.array([{}], dtype=object)), b"\x80\x04]\x94."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not an \.npz file of plain arrays; save it without Python objects"):
            read_arrays(path)


@pytest.mark.parametrize("header", ["{'descr': '<f4', 'fortran_order': (", "{'descr': 'x', 'shape': ()}", "9"])
def test_a_damaged_npz_file_is_refused(tmp_path: Path, header: str) -> None:
    path, text = tmp_path / "a.npz", f"{header}\n".encode()
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("image.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with pytest.raises(ValueError, match=r"is not a readable .npz file \([^\n]+\); write it again"):
        read_arrays(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"is not a readable \.npz file .BadZipFile: File is not a zip file"):
        read_arrays(path)
    path.write_bytes(whole[:-6] + b"\x7b\x3b\x25\xc8\0\0")  # the directory would begin before the file
    with pytest.raises(ValueError, match=r"is not a readable \.npz file \("):
        read_arrays(path)


def test_metadata_written_by_json_keeps_its_texts() -> None:
    held = metadata_document(pa.schema([], metadata={"k": json.dumps({"é": ["ß"]})}), b"k")
    assert held == {"é": ["ß"]}
