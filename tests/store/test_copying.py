from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from inputs.stores import ENCODER, PAIRED, opened, paired_batch
from rag_clip.progress import ProgressEvent
from rag_clip.store import CopyReport, Store, StoreError, copy_store, create_store, load_schema, open_store
from rag_clip.store.copying import copy_rows
from rag_clip.store.schema import VectorSchema

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Iterator[Store]:
    with opened("edge", tmp_path_factory.mktemp("source"), PAIRED) as store:
        store.upsert(paired_batch())
        store.note("funnel", {"kept": 6})
        store.note("check", {"recall": 1.0, "count": 6})
        yield store


def rows(store: Store) -> list[dict[str, Any]]:
    [page] = store.scroll(vectors=True, payload=True)
    return page.to_pylist()


def test_a_collection_goes_to_a_server_and_back_unchanged(source, tmp_path):
    events: list[ProgressEvent] = []
    with opened("memory", tmp_path, PAIRED) as server:
        there = copy_rows(source, server, report=events.append)
        back = copy_store(server, tmp_path / "back")
    assert there == CopyReport(source.location, "memory", 6, 6)
    assert (back.source, back.count, back.verified) == ("memory", 6, 6)
    assert events[0] == ProgressEvent("copy", 6, 6)
    with open_store(tmp_path / "back") as store:
        assert rows(store) == rows(source)
        assert store.card.schema == source.card.schema
        assert {name: note["kept"] for name, note in store.card.notes.items()} == {"funnel": 6}


def test_a_copy_may_have_another_layout_and_can_be_repeated(source, tmp_path):
    halves = tuple(VectorSchema(name=vector.name, datatype="float16") for vector in PAIRED.vectors)
    schema = PAIRED.model_copy(update={"vectors": halves})
    for _ in range(2):
        assert copy_store(source, tmp_path / "half", schema=schema).count == 6
    with open_store(tmp_path / "half") as store:
        assert [row["id"] for row in rows(store)] == [row["id"] for row in rows(source)]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (load_schema(), "has the vectors image, text, the schema text; a copy needs the same"),
        (
            PAIRED.model_copy(update={"payload": load_schema().payload}),
            "does not declare payload licence, width, noise, title",
        ),
    ],
)
def test_a_layout_that_would_lose_data_is_refused(source, tmp_path, schema, message):
    with pytest.raises(ValueError, match=message):
        copy_store(source, tmp_path / "copy", schema=schema)
    assert not (tmp_path / "copy").exists()


def changed(**values: Any) -> pa.RecordBatch:
    rows = [row | values for row in paired_batch().to_pylist()]
    return pa.RecordBatch.from_pylist(rows, schema=paired_batch().schema)


def test_a_target_that_holds_other_rows_is_reported(source, tmp_path):
    with create_store(tmp_path / "index", schema=PAIRED, encoder=ENCODER, dim=source.card.dim) as target:
        target.upsert(changed(id="00000000-0000-5000-8000-000000000000"))
        with pytest.raises(StoreError, match=r"has 7 rows, .* 6"):
            copy_rows(source, target)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "other"}, "column text of memory differs"),
        ({"vector_image": [1.0, 1.0, 0.0, 0.0]}, "vectors in vector_image of memory differ"),
    ],
)
def test_a_target_that_another_writer_changes_meanwhile_is_reported(source, tmp_path, values, message):
    with opened("memory", tmp_path, PAIRED) as target, pytest.raises(StoreError, match=message):
        copy_rows(source, target, report=lambda _event: target.upsert(changed(**values)))
