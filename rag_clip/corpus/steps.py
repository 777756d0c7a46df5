"""Cleaning steps: functions from a table of records to Kept, made from thresholds and chained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from rag_clip.data import Kept

Step = Callable[[pa.Table], Kept]
_PLACE = "place among the records"


def texts_of(records: pa.Table) -> pl.Series:
    """Return column `text`; raises ValueError if it is missing."""
    return column_of(records, "text", "every cleaning step reads it")


def column_of(records: pa.Table, name: str, why: str) -> pl.Series:
    """Return a column; raises ValueError, with the reason `why` it is needed, if it is missing."""
    if name not in records.column_names:
        raise ValueError(f"no column {name!r}: {why}; the columns are {', '.join(records.column_names)}")
    return pl.Series(name, records.column(name))


def split(records: pa.Table, faults: pl.Series, scores: pl.Series | None = None) -> Kept:
    """Split records into rows whose fault is null (kept) and the others (dropped, with the fault as the reason).

    `scores` [n] are the values that the rule measured, reported for dropped rows (0 without scores).
    """
    drop = faults.is_not_null()
    mask = pa.array(drop.to_numpy(), pa.bool_())
    measured = scores.filter(drop).cast(pl.Float64).to_list() if scores is not None else [0.0] * int(drop.sum())
    return Kept(
        records.filter(pa.array(~drop.to_numpy(), pa.bool_())),
        records.filter(mask),
        tuple(faults.drop_nulls().to_list()),
        tuple(measured),
    )


def fault(name: str, dropped: pl.Series) -> pl.Series:
    """Return `name` where `dropped` is true and null elsewhere; a null in `dropped` keeps the row."""
    return pl.select(pl.when(dropped).then(pl.lit(name))).to_series()


def chain(steps: Sequence[Step]) -> Step:
    """Return a step that runs `steps` in turn, each on the rows that the previous one kept.

    Every dropped row is reported once, unchanged, in the order of the records, with its first reason and score.
    """

    def run(records: pa.Table) -> Kept:
        column = _PLACE
        while column in records.column_names:  # a chain in a chain
            column += " within"
        going = records.append_column(column, pa.array(np.arange(records.num_rows)))
        places: list[int] = []
        reasons: list[str] = []
        scores: list[float] = []
        for step in steps:
            kept = step(going)
            going = kept.selected
            places += kept.dropped.column(column).to_pylist()
            reasons += kept.reason
            scores += kept.score or (0.0,) * len(kept.reason)
        order = np.argsort(np.array(places, np.int64), kind="stable")
        return Kept(
            going.drop_columns(column),
            records.take(pa.array(np.array(places, np.int64)[order])),
            tuple(reasons[place] for place in order),
            tuple(scores[place] for place in order),
        )

    return run
