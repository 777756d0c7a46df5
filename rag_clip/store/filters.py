"""What `where` may ask: a value or values of a keyword field, a range of a number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from numbers import Real

from rag_clip.store.interface import Where
from rag_clip.store.schema import CollectionSchema

Range = tuple[float | None, float | None]
Filters = Mapping[str, str | Sequence[str] | Range]


def check_where(where: Filters, schema: CollectionSchema) -> Where:
    """Return the conditions as engines take them; raises ValueError for unknown fields and conditions that misfit."""
    unknown = [field for field in where if field not in schema.filterable]
    if unknown:
        raise ValueError(
            f"cannot filter by {', '.join(unknown)}; the indexed fields are {', '.join(schema.filterable)}"
        )
    return {field: _condition(field, value, schema.payload[field].kind) for field, value in where.items()}


def _condition(field: str, value: str | Sequence[str] | Range, kind: str) -> list[str] | Range:
    if kind == "keyword":
        values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        if not all(isinstance(item, str) for item in values):
            raise ValueError(f"{field} is a keyword; filter by a text or several, not {value!r}")
        return values  # type: ignore[return-value]
    if not isinstance(value, Sequence) or len(value) != 2 or not all(_is_bound(bound) for bound in value):
        raise ValueError(f"{field} is a number; filter by (least, greatest), either None for no bound, not {value!r}")
    least, greatest = value
    if least is not None and greatest is not None and least > greatest:  # type: ignore[operator]
        raise ValueError(f"{field} is to be at least {least} and at most {greatest}, which no number is; swap them")
    return least, greatest  # type: ignore[return-value]


def _is_bound(value: object) -> bool:
    """Tell whether a value is a number, or None; NaN is neither."""
    return value is None or (isinstance(value, Real) and not isinstance(value, bool) and not isnan(value))
