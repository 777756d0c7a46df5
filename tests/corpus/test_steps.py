from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from rag_clip.corpus.steps import chain, fault, split, texts_of


def drop(letter):
    def step(records):
        texts = texts_of(records)
        return split(records, fault(f"has {letter}", texts.str.contains(letter)), texts.str.len_chars())

    return step


def table(*texts):
    return pa.table({"text": pa.array(texts, pa.string()), "row": range(len(texts))})


def test_a_chain_reports_each_dropped_row_once_in_the_order_of_the_records():
    kept = chain([drop("b"), drop("a")])(table("a", "c", "bab", "aaaa", "cc"))
    assert kept.selected.to_pydict() == {"text": ["c", "cc"], "row": [1, 4]}
    assert kept.dropped.to_pydict() == {"text": ["a", "bab", "aaaa"], "row": [0, 2, 3]}
    assert (kept.reason, kept.score) == (("has a", "has b", "has a"), (1.0, 3.0, 4.0))


def test_chains_can_be_chained():
    records = table("a", "b", "c", "ab")
    apart = chain([drop("a"), drop("b")])(records)
    nested = chain([chain([drop("a")]), chain([chain([drop("b")])])])(records)
    assert nested == apart
    assert nested.selected.to_pydict() == {"text": ["c"], "row": [2]}


def test_an_empty_chain_keeps_everything():
    kept = chain([])(table("a"))
    assert (kept.selected, kept.dropped.num_rows, kept.reason, kept.score) == (table("a"), 0, (), ())


def test_a_table_without_rows_stays_one():
    kept = chain([drop("a")])(table())
    assert (kept.selected, kept.dropped, kept.reason, kept.score) == (table(), table(), (), ())


def test_an_unknown_verdict_keeps_the_row():
    assert fault("x", pl.Series([True, None, False])).to_list() == ["x", None, None]


def test_a_missing_text_column_is_named_with_what_there_is():
    with pytest.raises(ValueError, match="no column 'text': every cleaning step reads it; the columns are caption"):
        texts_of(pa.table({"caption": ["a"]}))
