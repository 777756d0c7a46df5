"""Common types of columns, so that the columns of several files can be written as one."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from pyarrow import types

_STRINGS = (types.is_string, types.is_large_string, types.is_string_view)
_BINARIES = (types.is_binary, types.is_large_binary, types.is_binary_view)
_LISTS = (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view)
_WIDENED = (types.is_signed_integer, types.is_unsigned_integer, types.is_floating)
_DECIMAL128_DIGITS = 38


def common_type(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return a type that represents every value of both types exactly; None if there is none.

    A null type becomes the other type. Signed integers, unsigned integers and floats get the wider type of their kind;
    texts, bytes and lists get 64-bit offsets. Dictionaries, and the fields of lists, structs and maps, are joined by
    the same rules.
    """
    if first.equals(other, check_metadata=True):
        return first
    if types.is_null(first) or types.is_null(other):
        return other if types.is_null(first) else first
    if types.is_dictionary(first) or types.is_dictionary(other):
        return _dictionary(first, other)
    for tests, wide in ((_STRINGS, pa.large_string()), (_BINARIES, pa.large_binary())):
        if _is(first, tests) and _is(other, tests):
            return wide
    for test in _WIDENED:
        if test(first) and test(other):
            return max(first, other, key=lambda kind: kind.bit_width)
    if types.is_decimal(first) and types.is_decimal(other):
        return _decimal(first, other)
    return _nested(first, other)


def replace_types(field: pa.Field, replace: Callable[[pa.Field], pa.DataType]) -> pa.Field:
    """Return a field with `replace` applied to it and to all fields in its type, the innermost first."""
    kind = field.type
    if types.is_struct(kind) or _is(kind, _LISTS) or types.is_fixed_size_list(kind) or types.is_map(kind):
        field = field.with_type(_rebuilt(kind, [replace_types(each, replace) for each in _fields(kind)]))
    return field.with_type(replace(field))


def shared_notes(first: pa.Field, other: pa.Field) -> dict[bytes, bytes] | None:
    """Return the metadata that both fields have, such as the categories of a column."""
    return dict((first.metadata or {}).items() & (other.metadata or {}).items()) or None


def any_type(kind: pa.DataType, test: Callable[[pa.DataType], bool]) -> bool:
    """Return whether `test` is true for a type or for any type nested in it."""
    return test(kind) or any(any_type(each.type, test) for each in _fields(kind))


def _is(kind: pa.DataType, tests: tuple[Callable[[pa.DataType], bool], ...]) -> bool:
    return any(test(kind) for test in tests)


def _fields(kind: pa.DataType) -> list[pa.Field]:
    if types.is_map(kind):
        return [kind.key_field, kind.item_field]
    return [kind.field(place) for place in range(kind.num_fields)]


def _rebuilt(kind: pa.DataType, fields: list[pa.Field]) -> pa.DataType:
    if types.is_struct(kind):
        return pa.struct(fields)
    if types.is_map(kind):
        return pa.map_(*fields, keys_sorted=kind.keys_sorted)
    if types.is_fixed_size_list(kind):
        return pa.list_(fields[0], kind.list_size)
    makers = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)
    return next(make(fields[0]) for make, test in zip(makers, _LISTS, strict=True) if test(kind))


def _dictionary(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Join the types of the values; two dictionaries give a dictionary, if both or neither have ordered categories."""
    kinds = (first, other)
    values = common_type(*(kind.value_type if types.is_dictionary(kind) else kind for kind in kinds))
    if values is None or not all(map(types.is_dictionary, kinds)):
        return values
    if first.ordered != other.ordered:
        return None
    wide = max(kind.index_type.bit_width for kind in kinds) == 64
    return pa.dictionary(pa.int64() if wide else pa.int32(), values, first.ordered)


def _decimal(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    digits = max(first.precision, other.precision)
    if first.scale != other.scale:
        return None
    return (pa.decimal128 if digits <= _DECIMAL128_DIGITS else pa.decimal256)(digits, first.scale)


def _nested(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if _is(first, _LISTS) and _is(other, _LISTS):
        [field] = _common_fields(first, other, named=False) or [None]
        return field and pa.large_list(field)
    fixed = types.is_fixed_size_list(first) and types.is_fixed_size_list(other)
    if fixed and first.list_size == other.list_size:
        [field] = _common_fields(first, other, named=False) or [None]
        return field and pa.list_(field, first.list_size)
    if types.is_map(first) and types.is_map(other):
        fields = _common_fields(first, other, named=False)
        return fields and pa.map_(*fields)
    if types.is_struct(first) and types.is_struct(other):
        fields = _common_fields(first, other, named=True)
        return fields and pa.struct(fields)
    return None


def _common_fields(first: pa.DataType, other: pa.DataType, *, named: bool) -> list[pa.Field] | None:
    """Join the fields pairwise; None if some have no common type, or, if `named`, different names."""
    pairs = list(zip(_fields(first), _fields(other), strict=False))
    if first.num_fields != other.num_fields or (named and any(left.name != right.name for left, right in pairs)):
        return None
    joined = [common_type(left.type, right.type) for left, right in pairs]
    if any(kind is None for kind in joined):
        return None
    return [
        pa.field(left.name, kind, left.nullable or right.nullable, shared_notes(left, right))
        for (left, right), kind in zip(pairs, joined, strict=True)
    ]
