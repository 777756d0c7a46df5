from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inputs.folders import TESTS
from inputs.large_stores import DIM, ENCODER, fill, make
from rag_clip.data import Fingerprint
from rag_clip.progress import ProgressEvent
from rag_clip.store import Card, StoreError, create_store, load_schema, open_store, worker
from rag_clip.store.edge import EdgeEngine
from rag_clip.store.process import EngineProcess
from rag_clip.store.rows import Rows
from rag_clip.store.schema import QuantizationSchema, VectorSchema

OTHER = Fingerprint("other", "laion", "weights-2", "8x8")


def run(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


FILLING = f"""
    import sys
    sys.path.insert(0, {str(TESTS)!r})
    from pathlib import Path
    from inputs.large_stores import fill, make
    store = make(Path(sys.argv[1]))
    fill(store, 300)
"""


@pytest.fixture(scope="module")
def existing(tmp_path_factory) -> Path:
    """The folder of a closed index with ten captions; no test of this file changes it."""
    folder = tmp_path_factory.mktemp("existing") / "index"
    with make(folder) as store:
        fill(store, 10)
    return folder


def test_an_index_is_found_again_with_its_card_and_captions(existing):
    with open_store(existing, encoder=ENCODER) as store:
        assert (store.card.encoder, store.card.schema, store.card.dim) == (ENCODER, load_schema(), DIM)
        assert store.count() == 10
    assert json.loads((existing / "card.json").read_text()) == store.card.to_dict()


def test_making_an_index_that_exists_opens_it(existing):
    with make(existing) as again:
        assert again.count() == 10


def test_another_encoder_is_refused_with_both_named(existing):
    message = r"index was built with toy \(no tag, weights weights-1\), but the encoder is other \(laion"
    with pytest.raises(ValueError, match=message):
        open_store(existing, encoder=OTHER)
    with pytest.raises(ValueError, match=message):
        create_store(existing, schema=load_schema(), encoder=OTHER, dim=DIM)


def test_another_precision_of_the_same_encoder_is_welcome(existing):
    with open_store(existing, encoder=replace(ENCODER, precision="fp16")) as store:
        assert store.card.encoder == ENCODER


def test_another_schema_or_width_is_refused(existing):
    with pytest.raises(ValueError, match="another schema \\(name: stored captions, given pictures\\)"):
        make(existing, name="pictures")
    with pytest.raises(ValueError, match="holds vectors of width 32, not 8"):
        create_store(existing, schema=load_schema(), encoder=ENCODER, dim=8)


def test_an_index_of_another_release_is_refused(existing, tmp_path):
    card = (existing / "card.json").read_text()
    (tmp_path / "card.json").write_text(card.replace('"schema_version": 3', '"schema_version": 1'))
    with pytest.raises(
        ValueError, match="schema version 1; this release reads versions 2 and 3: build the index again"
    ):
        open_store(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is damaged"), ("{}", "schema version None"), ('{"schema_version": 3}', "is damaged")],
)
def test_a_damaged_card_is_reported(tmp_path, content, message):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        open_store(tmp_path)


def test_a_folder_without_an_index_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="rag-clip index build CAPTIONS --index"):
        open_store(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"is not an index: it has no card\.json"):
        open_store(tmp_path)


def test_a_folder_of_other_files_and_a_file_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty \(thesis\.txt\) and not an index"):
        make(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        make(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_creation_that_was_cut_short_is_begun_again(tmp_path):
    with make(tmp_path / "index") as store:
        fill(store, 3)
    (tmp_path / "index/card.json").unlink()
    with make(tmp_path / "index") as again:
        assert again.count() == 0


def test_a_second_user_is_refused_with_the_folder_named_until_the_first_has_closed(existing):
    with open_store(existing), pytest.raises(StoreError, match=r"index is in use by process \d+"):
        open_store(existing)
    open_store(existing).close()


def test_a_dead_engine_is_reported_and_loses_nothing(tmp_path):
    store = make(tmp_path / "index")
    fill(store, 300)
    os.kill(int((tmp_path / "index/lock").read_text()), signal.SIGKILL)
    with pytest.raises(StoreError, match=r"ended during count \(Killed, signal 9\); what was written before is safe"):
        store.count()
    with pytest.raises(StoreError, match="open it again"):
        store.count()
    store.close()
    with open_store(tmp_path / "index") as again:
        assert again.count() == 300


def test_a_closed_store_refuses_and_closing_twice_does_nothing(existing):
    store = open_store(existing)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        store.count()


def test_a_script_without_main_guard_that_never_closes_leaves_everything_in_order(tmp_path):
    script = run(FILLING, tmp_path / "index")
    assert script.communicate() == ("", "")
    assert script.returncode == 0
    with open_store(tmp_path / "index") as store:
        assert store.count() == 300


def test_a_killed_script_leaves_what_it_wrote(tmp_path):
    script = run(FILLING + "    import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n", tmp_path / "index")
    script.communicate()
    assert script.returncode == -signal.SIGKILL
    with open_store(tmp_path / "index") as store:
        assert store.count() == 300


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a group of processes")
def test_interrupting_the_optimiser_ends_at_once_and_loses_nothing(tmp_path):
    script = run(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(TESTS)!r})
        from pathlib import Path
        from inputs.large_stores import SLOW, fill, make

        def interrupt(event):
            print(event.stage, flush=True)
            os.killpg(0, signal.SIGINT)  # as a terminal does

        with make(Path(sys.argv[1]), **SLOW) as store:
            fill(store, 6_000)
            store.optimise(interrupt)
        """,
        tmp_path / "index",
        start_new_session=True,
    )
    output, errors = script.communicate()
    assert output == "optimise\n"
    assert errors.strip().endswith("KeyboardInterrupt")
    assert script.returncode == -signal.SIGINT
    with open_store(tmp_path / "index") as store:
        assert store.count() == 6_000


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_disk_that_is_full_is_reported(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, hard))
    try:
        with pytest.raises(StoreError, match=r"the engine refused to create: .*File too large"):
            make(tmp_path / "index")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    make(tmp_path / "index").close()


@pytest.mark.parametrize("kind", ["none", "int8", "turbo4"])
def test_a_large_collection_gets_a_graph_that_finds_what_the_exact_search_finds(tmp_path, kind):
    hnsw = load_schema().hnsw.model_copy(update={"full_scan_threshold": 10})
    events: list[ProgressEvent] = []
    with make(tmp_path / "index", hnsw=hnsw, quantization=QuantizationSchema(kind=kind)) as store:
        vectors = fill(store, 1000)
        assert store.info()["status"] == "not optimised"
        store.optimise(events.append)
        assert (store.info()["indexed"], store.info()["status"]) == (1000, "ready")
        queries = vectors[:20] + 0.1
        exact, graph, auto = (store.search(vectors=queries, limit=10, index=use) for use in ("exact", "hnsw", "auto"))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ unit.T
    assert [[hit.score for hit in hits] for hits in exact] == [
        pytest.approx(row, abs=1e-5) for row in -np.sort(-cosines)[:, :10]
    ]
    found = [{hit.id for hit in left} & {hit.id for hit in right} for left, right in zip(exact, graph, strict=True)]
    assert sum(map(len, found)) >= 190
    assert auto == graph
    assert {event.stage for event in events} <= {"optimise", "postings"}


@pytest.mark.parametrize("datatype", ["float32", "float16"])
def test_a_segment_that_is_full_is_indexed_without_being_asked_for_after_reopening_too(tmp_path, datatype):
    schema = load_schema().model_copy(update={"vectors": (VectorSchema(datatype=datatype),)})
    vectors = {"text": np.random.default_rng(0).standard_normal((1000, DIM)).astype("f4")}
    texts = [f"caption {row}" for row in range(1000)]
    rows = Rows([str(uuid.UUID(int=row)) for row in range(1000)], {"text": texts, "source": ["made"] * 1000}, vectors)
    create = {"schema": schema.model_dump(), "dim": DIM}
    found = []
    for operation, arguments, part in (
        ("create", create, (0, 700)),
        ("load", {"names": ["text"], "sparse": True}, (700, 1000)),
    ):
        process = EngineProcess()
        process.ask(operation, {"folder": str(tmp_path / "shard"), "segment_rows": 300, **arguments})
        engine = EdgeEngine(tmp_path, process, Card(ENCODER, schema, DIM), segment_rows=300)
        for start in range(*part, 100):
            engine.upsert(rows[start : start + 100])
        found.append((engine.info()["indexed"], engine.info()["segments"]))
        last = engine.rank_texts([f"caption {part[1] - 1}"], 1, where={}, holding=[[]])
        assert last[0][0][0] == rows.ids[part[1] - 1]
        engine.close()
    assert found == [(600, 3), (900, 4)]


@pytest.mark.parametrize("vector", [{"datatype": "float16", "on_disk": True}, {"distance": "dot"}], ids=["half", "dot"])
def test_every_kind_of_vector_can_be_searched(tmp_path, vector):
    with make(tmp_path / "index", vectors=(VectorSchema(**vector),)) as store:
        vectors = fill(store, 50)
        [hits] = store.search(vectors=vectors[7:8], limit=1)
    if vector.get("distance") != "dot":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert hits[0].score == pytest.approx(float((vectors @ vectors[7]).max()), rel=1e-2)


def test_the_worker_imports_only_the_engine_numpy_the_lock_and_the_standard_library():
    tree = ast.parse(Path(worker.__file__).read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy", "qdrant_edge", "rag_clip"}
    assert [name for name in names if name.startswith("rag_clip")] == ["rag_clip.files.lock"]
    loaded = "import sys, rag_clip.files.lock; print(sorted({'torch', 'pyarrow', 'qdrant_client'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout == "[]\n"


def test_files_are_read_before_the_engine_maps_them_where_memory_is_enough(tmp_path):
    (tmp_path / "segments/one").mkdir(parents=True)
    (tmp_path / "segments/one/a").write_bytes(b"12345")
    (tmp_path / "segments/b").write_bytes(b"123")
    assert worker.read_first(tmp_path / "segments", memory=8) == 8
    assert worker.read_first(tmp_path / "segments", memory=7) == 0
    assert worker.read_first(tmp_path / "absent", memory=7) == 0
