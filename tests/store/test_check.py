from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from inputs.stores import ENCODER
from rag_clip.data import Hit
from rag_clip.progress import ProgressEvent
from rag_clip.store import Store, StoreError, caption_id, check_index, create_store, load_schema, open_store
from rag_clip.store.check import _recall

DIM, COUNT = 16, 1500


def make(folder: Path, threshold: int = 50) -> Store:
    hnsw = load_schema().hnsw.model_copy(
        update={"full_scan_threshold": threshold, "m": 8, "ef": 16, "ef_construct": 32}
    )
    return create_store(folder, schema=load_schema().model_copy(update={"hnsw": hnsw}), encoder=ENCODER, dim=DIM)


def fill(store: Store, start: int, stop: int) -> None:
    vectors = np.random.default_rng(start).standard_normal((stop - start) * DIM).astype("f4")
    texts = [f"caption {row}" for row in range(start, stop)]
    columns = {"id": [caption_id("made", text) for text in texts], "text": texts, "source": ["made"] * len(texts)}
    store.upsert(pa.record_batch(columns | {"vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIM)}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "index"
    with make(folder) as store:
        fill(store, 0, COUNT)
        assert store.info()["status"] == "not optimised"
        with pytest.raises(StoreError, match="is not optimised: optimise it, and check it when that is done"):
            check_index(store)
        store.optimise()
    return folder


@pytest.fixture
def store(folder) -> Iterator[Store]:
    with open_store(folder) as store:
        yield store


def test_the_check_measures_the_graph_and_is_noted_with_its_date(store, folder):
    events: list[ProgressEvent] = []
    found = check_index(store, queries=40, k=10, seed=3, report=events.append)
    assert 0.5 < found.recall_p05 <= found.recall <= 1
    assert (found.queries, found.k, found.seed, found.count) == (40, 10, 3, COUNT)
    assert (found.vector, found.served) == ("text", "hnsw")
    assert events[-1] == ProgressEvent("check", 40, 40, unit="queries")
    assert store.info()["check"]["recall"] == found.recall
    store.close()
    with open_store(folder) as again:
        check = again.info()["check"]
    assert (check["recall"], check["current"], check["date"][:2]) == (found.recall, True, "20")


def test_the_same_seed_asks_the_same(store):
    first, second = (check_index(store, queries=20, k=10, seed=1) for _ in range(2))
    assert (first.recall, first.recall_p05) == (second.recall, second.recall_p05)


def test_exact_search_has_perfect_recall(store):
    found = check_index(store, queries=20, k=10, index="exact")
    assert (found.recall, found.recall_p05, found.served) == (1, 1, "exact")


def test_a_small_index_is_served_exactly_and_asked_no_more_than_it_holds(tmp_path):
    with make(tmp_path / "index") as store:
        with pytest.raises(ValueError, match="holds no captions; build it first"):
            check_index(store)
        fill(store, 0, 30)
        found = check_index(store, queries=50, k=10)
        assert (found.recall, found.served, found.queries) == (1, "exact", 30)
        fill(store, 30, 40)
        assert store.info()["check"]["current"] is False


def test_equal_captions_stand_for_one_another():
    exact = [Hit("a", "", 1.0), Hit("b", "", 0.5), Hit("c", "", 0.5)]
    assert _recall([Hit("a", "", 1.0), Hit("d", "", 0.5), Hit("e", "", 0.4)], exact) == 2 / 3
