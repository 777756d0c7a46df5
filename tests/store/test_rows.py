from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rag_clip.store import caption_id, load_schema
from rag_clip.store.rows import Rows, check_rows, check_vectors
from rag_clip.store.schema import NumberIndex

SCHEMA = load_schema()
NUMBERS = {"width": NumberIndex(kind="integer"), "noise": NumberIndex(kind="float")}
NUMBERED = SCHEMA.model_copy(update={"payload": SCHEMA.payload | NUMBERS})


def batch(**changes: Any) -> pa.RecordBatch:
    columns = {
        "id": [caption_id("s", "a"), caption_id("s", "b")],
        "text": ["a", "b"],
        "source": ["s", "s"],
        "vector": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32())),
    }
    return pa.record_batch({key: value for key, value in {**columns, **changes}.items() if value is not None})


def test_the_id_of_a_caption_never_changes():
    assert caption_id("cc3m", "a red flag") == "a30430cc-ff3c-5b05-bb10-874b608f74b9"


def test_source_and_text_are_not_run_together():
    assert caption_id("ab", "c") != caption_id("a", "bc")
    assert caption_id("1:a", "b") != caption_id("1", ":ab")


@pytest.mark.parametrize(
    "vector",
    [
        pa.array([[1, 2], [3, 4]], pa.list_(pa.float64())),
        pa.array([[1, 2], [3, 4]], pa.large_list(pa.float16())),
        pa.array([[0, 0], [1, 2], [3, 4]], pa.list_(pa.float32(), 2))[1:],
        pa.array([[0, 0], [1, 2], [3, 4]], pa.list_(pa.float32()))[1:],
    ],
    ids=["double", "half", "slice of fixed", "slice of list"],
)
def test_vectors_of_any_float_list_become_rows(vector):
    matrix = check_rows(batch(vector=vector), 2, SCHEMA).vectors["text"]
    assert (matrix.tolist(), matrix.dtype) == ([[1, 2], [3, 4]], np.float32)


def test_rows_survive_the_way_to_a_batch_and_back():
    rows = check_rows(batch(width=pa.array([640, None], pa.int32())), 2, NUMBERED)
    again = check_rows(rows.to_batch(NUMBERED), 2, NUMBERED)
    assert again.payload == {"text": ["a", "b"], "source": ["s", "s"], "width": [640, None], "noise": [None, None]}
    assert (again.ids, again.vectors["text"].tolist()) == (rows.ids, [[1, 2], [3, 4]])
    assert rows.to_batch(NUMBERED, payload=False).schema.names == ["id", "text", "source", "vector"]
    assert Rows([], {"text": [], "source": []}).to_batch(SCHEMA).num_rows == 0


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"width": ["broad", "b"]}, "column width holds string, not integer values as the schema says"),
        ({"width": [1.5, 2.5]}, "column width holds double, not integer values"),
        ({"noise": [float("nan"), 0.5]}, "column noise holds NaN or infinite numbers; make them null"),
    ],
)
def test_payload_of_another_type_is_refused(column, message):
    with pytest.raises(ValueError, match=message):
        check_rows(batch(**column), 2, NUMBERED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": None}, "lacks source; found columns id, text, vector"),
        ({"text": ["a", None]}, "nulls in text"),
        ({"vector": pa.array([[1, 2], None], pa.list_(pa.float32()))}, "nulls in vector"),
        ({"id": ["1", "2"]}, "1, 2: not lower-case UUIDs"),
        ({"vector": pa.array([[1, 2], [1, 2, 3]], pa.list_(pa.float32()))}, r"vectors of width \[3\], not 2"),
        ({"vector": pa.array([[1, 2], [1, None]], pa.list_(pa.float32()))}, "NaN or infinite"),
        ({"vector": pa.array([[1, 2], [1e39, 0]], pa.list_(pa.float64()))}, "NaN or infinite"),
        ({"vector": ["1", "2"]}, "column vector holds string, not lists of numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_a_wrong_batch_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        check_rows(batch(**changes), 2, SCHEMA)


def test_many_bad_rows_are_named_in_part():
    with pytest.raises(ValueError, match="row0, row1, row2, row3, row4 and 3 more: zero vectors"):
        check_vectors(np.zeros((8, 2)), 2, [f"row{row}" for row in range(8)])
