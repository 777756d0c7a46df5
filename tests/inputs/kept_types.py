"""Columns of four rows of every type that Parquet writers leave in a file, at the ends of their ranges."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import polars as pl
import pyarrow as pa

FAR = [dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999), None, dt.datetime(1700, 1, 1)]
DAYS = [dt.date(1, 1, 1), dt.date(9999, 12, 31), None, dt.date(1582, 10, 10)]
WHOLE = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
STRUCTS = pa.struct({"a": pa.int8(), "b": pa.large_string()})


def _integers(kind: pa.DataType) -> pa.Array:
    signed = pa.types.is_signed_integer(kind)
    low, high = (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1) if signed else (0, 2**kind.bit_width - 1)
    return pa.array([low, high, None, 1], kind)


def _nines(digits: int) -> Decimal:
    return Decimal(f"-{'9' * digits}.99")


def _ticks(kind: pa.DataType, *ticks: int | None) -> pa.Array:
    return pa.array(ticks, pa.int64()).cast(kind)


def _dictionary(index: pa.DataType, values: pa.Array, *, ordered: bool = False) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0], index), values, ordered=ordered)


def _extension(kind: pa.BaseExtensionType, values: Sequence[object]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


def arrow_columns() -> dict[str, pa.Array]:
    """Return the columns that pyarrow writes and that both pyarrow and polars read."""
    return {**_flat_columns(), **_nested_columns(), **_coded_columns()}


def _flat_columns() -> dict[str, pa.Array]:
    texts, binaries = ["ä", "", None, "x" * 40], [b"\xff\0", b"", None, b"x" * 40]
    return {
        **{str(kind): _integers(kind) for kind in WHOLE},
        "bool": pa.array([True, False, None, True]),
        "half": pa.array(np.array([1.5, np.inf, 65504, -0.0], np.float16)),
        "float": pa.array([float("nan"), 1e-45, None, -0.0], pa.float32()),
        "double": pa.array([float("nan"), 5e-324, None, -0.0]),
        "seconds": _ticks(pa.timestamp("s"), -62135596800, 253402300799, None, 0),
        "milliseconds": _ticks(pa.timestamp("ms", "Asia/Tokyo"), -62135596800000, 253402300799999, None, 1),
        "microseconds": pa.array(FAR, pa.timestamp("us")),
        "microseconds in a zone": pa.array(FAR, pa.timestamp("us", "UTC")),
        "nanoseconds": _ticks(pa.timestamp("ns"), -(2**63) + 1, 2**63 - 1, None, 1),
        "days": pa.array(DAYS, pa.date32()),
        "time of seconds": _ticks(pa.int32(), 0, 86399, None, 1).cast(pa.time32("s")),
        "time of milliseconds": _ticks(pa.int32(), 0, 86399999, None, 1).cast(pa.time32("ms")),
        "time of microseconds": _ticks(pa.time64("us"), 0, 86399999999, None, 1),
        "time of nanoseconds": _ticks(pa.time64("ns"), 0, 86399999999999, None, 1),
        **{f"duration {unit}": _ticks(pa.duration(unit), 0, 2**50, None, -1) for unit in ("s", "ms", "us", "ns")},
        "decimal32": pa.array([Decimal("1.23"), Decimal("-9999999.99"), None, Decimal(0)], pa.decimal32(9, 2)),
        "decimal64": pa.array([Decimal("1.23"), Decimal("-9.99"), None, Decimal(0)], pa.decimal64(18, 2)),
        "decimal128": pa.array([Decimal("1.23"), _nines(36), None, Decimal(0)], pa.decimal128(38, 2)),
        **{str(kind): pa.array(texts, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())},
        **{str(kind): pa.array(binaries, kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())},
        "fixed binary": pa.array([b"abc", b"\0\0\0", None, b"xyz"], pa.binary(3)),
        "null": pa.nulls(4),
    }  # fmt: skip


def _nested_columns() -> dict[str, pa.Array]:
    listed, named = [[1, None], [], None, [3]], pa.field("bag", pa.int32(), nullable=False)
    pairs = [[("a", 1)], [], None, [("b", None), ("b", 2)]]
    with_null = pa.struct({"a": pa.null(), "b": pa.int8()})
    return {
        "list": pa.array(listed, pa.list_(pa.int32())),
        "large list": pa.array(listed, pa.large_list(pa.int32())),
        "list of a bag": pa.array([[1, 2], [], None, [3]], pa.list_(named)),
        "fixed list": pa.array([[1, None], [2, 2], None, [3, 4]], pa.list_(pa.int32(), 2)),
        "list of structs": pa.array([[{"a": 1}], [], None, [{"b": "x"}, None]], pa.list_(STRUCTS)),
        "list of nulls": pa.array([[None], [], None, [None, None]], pa.list_(pa.null())),
        "struct": pa.array([{"a": 1, "b": "x"}, {"a": None}, None, {"b": ""}], STRUCTS),
        "struct of a null": pa.array([{"a": None, "b": 1}, {"b": 2}, None, {}], with_null),
        "map": pa.array(pairs, pa.map_(pa.string(), pa.int32())),
        "sorted map": pa.array(pairs, pa.map_(pa.string(), pa.int32(), keys_sorted=True)),
    }


def _coded_columns() -> dict[str, pa.Array]:
    category = pa.array(["p", "q", "unused"])
    narrow = _dictionary(pa.int8(), category)
    tensor = pa.fixed_shape_tensor(pa.float32(), (2, 2), permutation=[1, 0])
    return {
        **{f"dictionary of {kind}": _dictionary(kind, category) for kind in WHOLE},
        "ordered dictionary": _dictionary(pa.int8(), category, ordered=True),
        "dictionary of large strings": _dictionary(pa.uint32(), category.cast(pa.large_string())),
        "dictionary of binaries": _dictionary(pa.int32(), pa.array([b"p", b"\xff"])),
        "empty dictionary": pa.DictionaryArray.from_arrays(pa.nulls(4, pa.int8()), pa.array([], pa.string())),
        "list of dictionaries": pa.ListArray.from_arrays(pa.array([0, 1, 1, 3, 4], pa.int32()), narrow),
        "struct of a dictionary": pa.StructArray.from_arrays([narrow], ["d"]),
        "uuid": _extension(pa.uuid(), [uuid.UUID(int=1).bytes, b"\xff" * 16, None, b"\0" * 16]),
        "json": _extension(pa.json_(), ['{"a": 1}', "[]", None, "3"]),
        "bool8": _extension(pa.bool8(), [1, 0, None, 1]),
        "opaque": _extension(pa.opaque(pa.binary(), "geometry", "postgis"), [b"a", b"", None, b"b"]),
        "tensor": _extension(tensor, [[1, 2, 3, 4], [5, 6, 7, 8], None, [0, 0, 0, 0]]),
    }  # fmt: skip


def arrow_only_columns() -> dict[str, pa.Array]:
    """Return the columns that pyarrow writes and reads, and polars does not."""
    listed = [[1, None], [], None, [3]]
    return {
        "decimal256": pa.array(
            [Decimal("1.23"), Decimal("-" + "9" * 74 + ".99"), None, Decimal(0)], pa.decimal256(76, 2)
        ),
        "list view": pa.array(listed, pa.list_view(pa.int32())),
        "large list view": pa.array(listed, pa.large_list_view(pa.int32())),
        "days beyond Python": _ticks(pa.int32(), -(2**31), 2**31 - 1, None, 0).cast(pa.date32()),
        "microseconds beyond Python": _ticks(pa.timestamp("us"), -(2**62), 2**62, None, 0),
    }


def polars_columns() -> dict[str, pl.Series]:
    """Return the columns that only polars writes in its own way."""
    colours = pl.Enum(["green", "blue", "red"])
    structs = pl.Struct({"e": colours})
    many = pl.Enum([f"colour {number}" for number in range(300)])
    texts = ["red", "blue", None, "red"]
    return {
        "categorical": pl.Series(texts, dtype=pl.Categorical),
        "enum": pl.Series(texts, dtype=colours),
        "large enum": pl.Series(["colour 299", "colour 0", None, "colour 7"], dtype=many),
        "list of categoricals": pl.Series([["red"], [], None, ["blue", None]], dtype=pl.List(pl.Categorical)),
        "list of enums": pl.Series([["red"], [], None, ["blue", None]], dtype=pl.List(colours)),
        "struct of an enum": pl.Series([{"e": "red"}, {"e": None}, None, {"e": "blue"}], dtype=structs),
        "decimal": pl.Series([Decimal("1.5"), Decimal("-2.5"), None, Decimal(0)], dtype=pl.Decimal(38, 10)),
        "duration": pl.Series([1, 2**60, None, -5], dtype=pl.Duration("ns")),
        "time": pl.Series([dt.time(0), dt.time(23, 59, 59, 999999), None, dt.time(1)]),
        "far datetime": pl.Series(FAR, dtype=pl.Datetime("us", "Asia/Tokyo")),
        "date": pl.Series(DAYS),
        "struct": pl.Series([{"a": 1, "b": ["x"]}, {"a": None, "b": []}, None, {"a": 2, "b": [None]}]),
        "array": pl.Series([[[1, 2], [3, 4]], [[5, 6], [7, 8]], None, [[0] * 2] * 2], dtype=pl.Array(pl.Int8, (2, 2))),
        "binary": pl.Series([b"", b"\xff", None, b"x" * 40]),
        "null": pl.Series([None] * 4, dtype=pl.Null),
        "list of times": pl.Series([[dt.time(1)], [], None, [None]], dtype=pl.List(pl.Time)),
    }  # fmt: skip
