"""Columns of several files become one type that holds every value, or the files are refused."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.pictures import colour_prompts, picture
from rag_clip.images.common_types import common_type
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder


def coded(index: pa.DataType, values: Sequence[str | None], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind).dictionary_encode().cast(pa.dictionary(index, kind))


def in_list(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), values)


COLUMNS = {
    "nulls and strings": (pa.nulls(2), pa.array(["a", None]), pa.string()),
    "nulls and categories": (
        pa.nulls(2),
        coded(pa.int8(), ["a", None], pa.string()),
        pa.dictionary(pa.int32(), pa.string()),
    ),
    "strings": (pa.array(["a", None], pa.string_view()), pa.array(["b", "c"]), pa.large_string()),
    "binaries": (pa.array([b"a", None]), pa.array([b"\xff", b""], pa.binary_view()), pa.large_binary()),
    "categories": (
        coded(pa.int8(), ["a", "b"], pa.string()),
        coded(pa.int16(), ["c", "a"], pa.large_string()),
        pa.dictionary(pa.int32(), pa.string()),  # so pyarrow reads what it wrote as large strings
    ),
    "many categories": (
        coded(pa.int8(), [f"a{row}" for row in range(120)], pa.string()),
        coded(pa.int8(), [f"b{row}" for row in range(120)], pa.string()),
        pa.dictionary(pa.int32(), pa.string()),
    ),
    "categories and strings": (coded(pa.int8(), ["a", None], pa.string()), pa.array(["b", "a"]), pa.string()),
    "integers": (pa.array([1, None], pa.int8()), pa.array([2**62 + 1, -(2**63)]), pa.int64()),
    "unsigned integers": (pa.array([1, None], pa.uint8()), pa.array([2**64 - 1, 0], pa.uint64()), pa.uint64()),
    "floats": (pa.array(np.array([1.5, 65504], np.float16)), pa.array([1e300, None]), pa.float64()),
    "decimals": (
        pa.array([Decimal("1.50"), None], pa.decimal32(5, 2)),
        pa.array([Decimal("1" * 50 + ".25"), None], pa.decimal256(60, 2)),
        pa.decimal256(60, 2),
    ),
    "lists": (
        pa.array([[1], None], pa.list_(pa.field("item", pa.int32()))),
        pa.array([[2**40], []], pa.large_list(pa.field("array_element", pa.int64(), nullable=False))),
        pa.large_list(pa.int64()),
    ),
    "fixed lists": (
        pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
        pa.array([[1, 2**20], [0, 0]], pa.list_(pa.int32(), 2)),
        pa.list_(pa.int32(), 2),
    ),
    "lists of categories": (
        in_list(coded(pa.int8(), ["a", "b"], pa.string())),
        pa.array([["c"], None], pa.list_(pa.string())),
        pa.large_list(pa.string()),
    ),
    "structs": (
        pa.array([{"a": 1, "b": None}, None], pa.struct({"a": pa.int8(), "b": pa.null()})),
        pa.array([{"a": 2**20, "b": "x"}, None], pa.struct({"a": pa.int32(), "b": pa.string()})),
        pa.struct({"a": pa.int32(), "b": pa.string()}),
    ),
    "maps": (
        pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int8())),
        pa.array([[("b", 2**20)], []], pa.map_(pa.large_string(), pa.int32())),
        pa.map_(pa.large_string(), pa.int32()),
    ),
}

DIFFERENT = {
    "signs": (pa.int8(), pa.uint8()),
    "integers and floats": (pa.int8(), pa.float64()),
    "texts and bytes": (pa.string(), pa.binary()),
    "scales": (pa.decimal128(5, 2), pa.decimal128(5, 1)),
    "units": (pa.timestamp("us"), pa.timestamp("ns")),
    "zones": (pa.timestamp("us"), pa.timestamp("us", "UTC")),
    "orders of categories": (pa.dictionary(pa.int8(), pa.string(), True), pa.dictionary(pa.int8(), pa.string())),
    "lengths": (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3)),
    "names of fields": (pa.struct({"a": pa.int8()}), pa.struct({"b": pa.int8()})),
    "numbers of fields": (pa.struct({"a": pa.int8()}), pa.struct({"a": pa.int8(), "b": pa.int8()})),
    "lists of others": (pa.list_(pa.int8()), pa.list_(pa.string())),
    "extensions": (pa.uuid(), pa.binary(16)),
}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_two_files_become_one_with_the_values_of_both(tmp_path: Path, name: str, swapped: bool):
    first, second, kind = COLUMNS[name]
    columns = [second, first] if swapped else [first, second]
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, column in zip(paths, columns, strict=True):
        pq.write_table(pa.table({"image": [picture("red")] * len(column), "v": column}), path)
    classify(paths, prompts=colour_prompts(), output=tmp_path / "out.parquet", encoder=ToyEncoder(), running=Running(0))
    went = pq.read_table(tmp_path / "out.parquet")["v"]
    assert went.type == kind
    assert went.to_pylist() == [value for column in columns for value in column.to_pylist()]
    if name != "decimals":  # polars has no decimals of 60 digits
        read = [pl.read_parquet(path)["v"].to_list() for path in [*paths, tmp_path / "out.parquet"]]
        assert read[2] == read[0] + read[1]


@pytest.mark.parametrize("name", DIFFERENT)
def test_types_that_nothing_holds_together_have_no_common_type(name: str):
    first, second = DIFFERENT[name]
    assert common_type(first, second) is None
    assert common_type(second, first) is None
    assert common_type(first, first) == first


def test_columns_that_nothing_holds_together_are_refused_by_name(tmp_path: Path):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, kind in zip(paths, DIFFERENT["units"], strict=True):
        pq.write_table(pa.table({"image": [picture("red")], "when": pa.array([0], kind)}), path)
    with pytest.raises(ValueError, match=r"when is timestamp\[us\] in the first and timestamp\[ns\] in the second"):
        classify(
            paths, prompts=colour_prompts(), output=tmp_path / "out.parquet", encoder=ToyEncoder(), running=Running(0)
        )


@pytest.mark.parametrize("nested", [False, True])
def test_enums_of_other_categories_become_categories(tmp_path: Path, nested: bool):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, names in zip(paths, (["a", "b"], ["b", "c"]), strict=True):
        column = pl.Series(names, dtype=pl.Enum(names))
        column = column.reshape((2, 1)).arr.to_list() if nested else column
        pl.DataFrame({"image": [picture("red")] * 2, "v": column}).write_parquet(path)
    classify(paths, prompts=colour_prompts(), output=tmp_path / "out.parquet", encoder=ToyEncoder(), running=Running(0))
    went = pl.read_parquet(tmp_path / "out.parquet")["v"]
    assert went.dtype == (pl.List(pl.Categorical) if nested else pl.Categorical)
    assert went.to_list() == ([["a"], ["b"], ["b"], ["c"]] if nested else ["a", "b", "b", "c"])
