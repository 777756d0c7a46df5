"""A cleaning step maps a table of records to Kept; steps are built from thresholds and chained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from rag_clip.data import Kept

Step = Callable[[pa.Table], Kept]
_PLACE = "place among the records"


def texts_of(records: pa.Table) -> pl.Series:
    """Return column `text`; raises ValueError where there is none."""
    return column_of(records, "text", "every cleaning step reads it")


def column_of(records: pa.Table, name: str, why: str) -> pl.Series:
    """Return a column; raises ValueError saying why it is needed and what there is instead."""
    if name not in records.column_names:
        raise ValueError(f"no column {name!r}: {why}; the columns are {', '.join(records.column_names)}")
    return pl.Series(name, records.column(name))


def split(records: pa.Table, faults: pl.Series, scores: pl.Series | None = None) -> Kept:
    """Keep the rows whose fault is null; the others are dropped for the reason that the fault names.

    `scores` [n] is what the rule measured, and is reported for the dropped rows (0 where it measured nothing).
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
    """Return `name` where `dropped` is true and null elsewhere; a null verdict keeps the row."""
    return pl.select(pl.when(dropped).then(pl.lit(name))).to_series()


def chain(steps: Sequence[Step]) -> Step:
    """Run steps in turn, each on what the one before kept.

    Every dropped row is reported once, as it came in, in the order of the records, with the first reason and score.
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
