from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from inputs.captions import stored, write_captions
from rag_clip.captions.shards import ShardFolder, newest, read_manifests
from rag_clip.corpus.cleaning import load_cleaning
from rag_clip.files.lock import BusyError, locked
from rag_clip.pipelines.embed import embed_captions
from rag_clip.pipelines.load import load_shards
from rag_clip.progress import ProgressEvent
from rag_clip.store import StoreError, caption_id, load_schema, open_store
from rag_clip.testing import ToyEncoder

TEXTS = [f"caption {row % 25}" for row in range(40)]


@pytest.fixture
def shards(tmp_path) -> Path:
    corpus = write_captions(tmp_path / "web.parquet", TEXTS)
    embed_captions([corpus], encoder=ToyEncoder(), shards=ShardFolder(tmp_path / "shards", rows=10))
    return tmp_path / "shards"


def contents(index: Path) -> dict:
    with open_store(index) as store:
        return stored(store)


def test_every_caption_is_loaded_once_with_its_vector(shards, tmp_path):
    events: list[ProgressEvent] = []
    summary = load_shards(shards, index=tmp_path / "index", report=events.append)
    assert (summary.loaded, summary.finished, summary.written, summary.added, summary.count) == (4, 0, 40, 25, 25)
    assert set(summary.seconds) == {"look up", "read shards", "write", "optimise"}
    assert ProgressEvent("load", 40, 40, "captions") in events
    found = contents(tmp_path / "index")
    texts = sorted(set(TEXTS))
    assert {name: row[:2] for name, row in found.items()} == {caption_id("web", text): (text, "web") for text in texts}
    exact = dict(zip(texts, ToyEncoder().encode_text(texts).tolist(), strict=True))
    assert all(vector == pytest.approx(exact[text], abs=1e-3) for text, _, vector in found.values())


def test_loading_again_writes_nothing(shards, tmp_path):
    load_shards(shards, index=tmp_path / "index")
    summary = load_shards(shards, index=tmp_path / "index")
    assert (summary.loaded, summary.finished, summary.written, summary.added, summary.count) == (0, 4, 0, 0, 25)


def test_the_index_tells_what_became_of_the_rows_of_the_corpus(tmp_path):
    paths = [
        write_captions(tmp_path / "a.parquet", ["one", None, "two", "one"]),
        write_captions(tmp_path / "b.parquet", [" ", None, "x " * 90]),
    ]
    embed_captions(paths, encoder=ToyEncoder(), shards=ShardFolder(tmp_path / "shards", rows=3))
    load_shards(tmp_path / "shards", index=tmp_path / "index")
    with open_store(tmp_path / "index") as store:
        noted = dict(store.card.notes["corpus"])
    load_shards(tmp_path / "shards", index=tmp_path / "index")
    with open_store(tmp_path / "index") as store:
        assert store.card.notes["corpus"] == noted
    del noted["date"], noted["cleaning"]
    assert noted == {
        "files": 2,
        "files_in_part": 0,
        "shards": 3,
        "read": 7,
        "dropped": {"null": 2, "empty": 1, "many_words": 1},
        "repeated": 0,
        "kept": 3,
    }


def test_an_index_of_another_graph_is_loaded_from_the_same_shards(shards, tmp_path):
    load_shards(shards, index=tmp_path / "index")
    schema = load_schema()
    schema = schema.model_copy(update={"hnsw": schema.hnsw.model_copy(update={"m": 8})})
    summary = load_shards(shards, index=tmp_path / "other", schema=schema)
    assert (summary.written, summary.count) == (40, 25)
    assert contents(tmp_path / "other") == contents(tmp_path / "index")


def test_an_index_that_was_deleted_or_is_older_than_the_record_is_loaded_again(shards, tmp_path):
    load_shards(shards, index=tmp_path / "index")
    card = (tmp_path / "index/card.json").read_text()
    shutil.rmtree(tmp_path / "index")
    assert load_shards(shards, index=tmp_path / "index").count == 25
    shutil.rmtree(tmp_path / "index")
    embed_captions(
        [write_captions(tmp_path / "x.parquet", ["x"])],
        encoder=ToyEncoder(),
        shards=ShardFolder(tmp_path / "one", rows=10),
    )
    load_shards(tmp_path / "one", index=tmp_path / "index")
    (tmp_path / "index/card.json").write_text(card)
    assert load_shards(shards, index=tmp_path / "index").count == 26


def test_shards_of_an_older_version_of_a_file_are_left_out(shards, tmp_path):
    corpus = write_captions(tmp_path / "web.parquet", ["one", "two"])
    embed_captions([corpus], encoder=ToyEncoder(), shards=ShardFolder(shards, rows=10))
    assert load_shards(shards, index=tmp_path / "index").count == 2


def test_a_manifest_dated_in_the_future_hides_no_newer_version_of_its_file(shards, tmp_path):
    for path in shards.glob("*.json"):
        values = {**json.loads(path.read_text()), "created": "2999-01-01T00:00:00+00:00"}
        path.write_text(json.dumps({name: value for name, value in values.items() if name != "checksum"}))
    corpus = write_captions(tmp_path / "web.parquet", ["one", "two"])
    embed_captions([corpus], encoder=ToyEncoder(), shards=ShardFolder(shards, rows=10))
    assert sorted({manifest.version for manifest in read_manifests(shards)}) == [0, 1]
    assert [manifest.rows for manifest in newest(read_manifests(shards))] == [2]
    earlier = [replace(manifest, version=0) for manifest in read_manifests(shards)]  # as an earlier release wrote them
    assert [manifest.rows for manifest in newest(earlier)] == [2]
    assert load_shards(shards, index=tmp_path / "index").count == 2


def test_what_does_not_belong_in_one_index_is_refused(shards, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there are no shards in .*absent; embed captions first"):
        load_shards(tmp_path / "absent", index=tmp_path / "index")
    embed_captions([tmp_path / "web.parquet"], encoder=ToyEncoder(dim=16), shards=ShardFolder(shards, rows=10))
    with pytest.raises(ValueError, match=r"the shards in .* were made by two encoders, toy .* and toy "):
        load_shards(shards, index=tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_shards_that_were_cleaned_in_another_way_are_refused(shards, tmp_path):
    load_shards(shards, index=tmp_path / "index")
    mended = load_cleaning().model_copy(update={"min_words": 2})
    embed_captions(
        [tmp_path / "web.parquet"],
        encoder=ToyEncoder(),
        cleaning=mended,
        shards=ShardFolder(tmp_path / "others", rows=10),
    )
    with pytest.raises(ValueError, match=r"were cleaned with other settings \(min_words was 0, is 2\)"):
        load_shards(tmp_path / "others", index=tmp_path / "index")
    assert load_shards(shards, index=tmp_path / "index").count == 25


def test_a_damaged_shard_is_named_and_the_others_stay_loaded(shards, tmp_path):
    path = sorted(shards.glob("*.parquet"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(OSError, match=rf"shard .*{path.name} cannot be read .*; delete .*\.json beside it"):
        load_shards(shards, index=tmp_path / "index")
    path.write_bytes(whole)
    summary = load_shards(shards, index=tmp_path / "index")
    assert (summary.loaded + summary.finished, summary.count) == (4, 25)


def test_two_loads_into_one_index_are_refused(shards, tmp_path):
    load_shards(shards, index=tmp_path / "index")
    with open_store(tmp_path / "index"), pytest.raises(StoreError, match="in use by process"):
        load_shards(shards, index=tmp_path / "index")
    [record] = (shards / "loaded").iterdir()
    with (
        locked(record.with_suffix(".lock"), doing="test"),
        pytest.raises(BusyError, match=r"cannot load .* into .*index: process \d+"),
    ):
        load_shards(shards, index=tmp_path / "index")


def test_a_server_that_is_gone_is_told(shards):
    with pytest.raises(StoreError, match="the Qdrant server failed"):
        load_shards(shards, index="http://127.0.0.1:9")
