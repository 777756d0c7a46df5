"""Snapshots: every row comes back, in both engines; damage is found; a killed restore is continued."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import numpy as np
import pytest

from inputs.qdrant_real import KILLED, RealQdrant, in_copies, needs_command
from inputs.stores import ENGINES, IDS, PAIRED, SERVERS, batch, opened, paired_batch, served
from rag_clip.progress import ProgressEvent
from rag_clip.store import Store, load_schema, open_store
from rag_clip.store.schema import VectorSchema
from rag_clip.store.snapshots import restore_index, snapshot_index


def rows(store: Store) -> list[dict]:
    return [row for page in store.scroll(vectors=True, payload=True) for row in page.to_pylist()]


class Killed(BaseException):
    """Ends a job in the middle."""


def dying(stage: str):
    def report(event: ProgressEvent) -> None:
        if event.stage == stage:
            raise Killed

    return report


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_snapshot_restores_every_row_vector_and_note(engine, tmp_path):
    with opened(engine, tmp_path, PAIRED) as store:
        store.upsert(paired_batch())
        store.note("funnel", {"kept": 6})
        made = snapshot_index(store, tmp_path / "index.snapshot")
        expected, funnel, lexical = (
            rows(store),
            store.card.notes["funnel"],
            store.search(texts=["kite"], mode="lexical"),
        )
    restored = restore_index(tmp_path / "index.snapshot", tmp_path / "restored")
    assert (made.count, restored.count, restored.checksum) == (6, 6, made.checksum)
    with open_store(tmp_path / "restored") as store:
        found = rows(store)
        assert store.card.notes["funnel"]["kept"] == funnel["kept"]
        ranked = store.search(texts=["kite"], mode="lexical")
    assert [[hit.id for hit in hits] for hits in ranked] == [[hit.id for hit in hits] for hits in lexical]
    for name in ("vector_text", "vector_image"):
        assert np.allclose([row.pop(name) for row in found], [row.pop(name) for row in expected], atol=1e-6)
    assert found == expected


@pytest.mark.parametrize("engine", SERVERS)
def test_a_snapshot_of_a_folder_is_restored_to_a_server_and_a_killed_restore_continued(engine, tmp_path):
    with opened("edge", tmp_path, PAIRED) as store:
        store.upsert(paired_batch())
        store.note("funnel", {"kept": 6})
        snapshot_index(store, tmp_path / "index.snapshot")
        expected, lexical = rows(store), store.search(texts=["red kite"], mode="lexical")
    with served(engine, tmp_path) as address:
        place = f"{address}/test-{uuid.uuid4()}"
        with pytest.raises(Killed):
            restore_index(tmp_path / "index.snapshot", place, report=dying("restore"))
        assert restore_index(tmp_path / "index.snapshot", place).count == 6
        with pytest.raises(ValueError, match="holds captions; restore into an empty place"):
            restore_index(tmp_path / "index.snapshot", place)
        with open_store(place) as store:
            found, ranked = rows(store), store.search(texts=["red kite"], mode="lexical")
            assert (store.card.notes["funnel"]["kept"], store.card.notes["restore"]["complete"]) == (6, True)
    assert [[hit.id for hit in hits] for hits in ranked] == [[hit.id for hit in hits] for hits in lexical]
    for name in ("vector_text", "vector_image"):
        assert np.allclose([row.pop(name) for row in found], [row.pop(name) for row in expected], atol=1e-6)
    assert found == expected


@pytest.mark.server
@needs_command
@KILLED
def test_a_restore_to_real_nodes_goes_on_when_one_is_killed_and_comes_back(tmp_path, nodes, victim):
    texts = [("web", f"caption {row}", [1.0, row / 9000, 0.0, 0.5]) for row in range(9000)]
    with opened("edge", tmp_path, in_copies(nodes)) as store:
        store.upsert(batch(texts))
        snapshot_index(store, tmp_path / "index.snapshot")
    killers: list[threading.Timer] = []

    def kill(event: ProgressEvent) -> None:
        if event.stage == "restore" and not killers:
            killers.extend([threading.Timer(0.02, real.kill, [victim]), threading.Timer(1.5, real.start)])
            for killer in killers:
                killer.start()

    with RealQdrant(tmp_path / "real", nodes=nodes) as real:
        restored = restore_index(tmp_path / "index.snapshot", f"{real.location}/captions", report=kill)
        for killer in killers:
            killer.join()
        assert (restored.count, real.starts) == (9000, nodes + 1)
        with open_store(f"{real.location}/captions") as store:
            assert [row["text"] for row in sorted(rows(store), key=lambda row: int(row["text"][8:]))] == [
                text for _source, text, _vector in texts
            ]
            assert store.card.schema.server == in_copies(nodes).server


@pytest.fixture
def snapshot(tmp_path) -> Path:
    with opened("edge", tmp_path, load_schema()) as store:
        store.upsert(batch())
        snapshot_index(store, tmp_path / "index.snapshot")
    return tmp_path / "index.snapshot"


def test_nothing_is_written_over(snapshot, tmp_path):
    with open_store(tmp_path / "index") as store, pytest.raises(FileExistsError, match="name another file"):
        snapshot_index(store, snapshot)
    with pytest.raises(ValueError, match="holds captions; restore into an empty place"):
        restore_index(snapshot, tmp_path / "index")
    restore_index(snapshot, tmp_path / "restored")
    with pytest.raises(ValueError, match="holds captions; restore into an empty place"):
        restore_index(snapshot, tmp_path / "restored")


def test_a_snapshot_is_restored_to_another_layout_unless_it_would_lose_data(snapshot, tmp_path):
    schema = load_schema().model_copy(update={"vectors": (VectorSchema(datatype="float16"),)})
    assert restore_index(snapshot, tmp_path / "half", schema=schema).count == 6
    with open_store(tmp_path / "half") as store:
        assert store.card.schema == schema
        assert [row["id"] for row in rows(store)] == sorted(IDS)
    with pytest.raises(ValueError, match="has the vectors text, the schema image, text; a copy needs the same"):
        restore_index(snapshot, tmp_path / "other", schema=PAIRED)
    assert not (tmp_path / "other").exists()


def test_an_empty_index_has_no_snapshot(tmp_path):
    with opened("edge", tmp_path, load_schema()) as store, pytest.raises(ValueError, match="holds no captions"):
        snapshot_index(store, tmp_path / "index.snapshot")
    assert not (tmp_path / "index.snapshot").exists()


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_flipped_byte_is_found_before_anything_is_written(snapshot, tmp_path, part):
    content = bytearray(snapshot.read_bytes())
    content[int(part * len(content))] ^= 0x10
    snapshot.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged|build the index again"):
        restore_index(snapshot, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_file_that_is_no_snapshot_is_named(tmp_path):
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="no snapshot of an index"):
        restore_index(tmp_path / "text", tmp_path / "restored")


def test_a_killed_snapshot_leaves_no_file_and_a_killed_restore_is_continued(snapshot, tmp_path):
    with open_store(tmp_path / "index") as store, pytest.raises(Killed):
        snapshot_index(store, tmp_path / "second.snapshot", report=dying("snapshot"))
    assert not (tmp_path / "second.snapshot").exists()
    with pytest.raises(Killed):
        restore_index(snapshot, tmp_path / "restored", report=dying("restore"))
    assert restore_index(snapshot, tmp_path / "restored").count == 6
    with open_store(tmp_path / "restored") as store:
        assert [row["id"] for row in rows(store)] == sorted(IDS)
        assert store.card.notes["restore"]["complete"] is True
