from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.captions import CountingEncoder
from rag_clip.captions.shards import ShardFolder, read_manifests
from rag_clip.corpus.cleaning import CleaningSettings, load_cleaning
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent
from rag_clip.store import caption_id, load_schema, open_store
from rag_clip.testing import ToyEncoder

CAPTIONS = ["a red  flag", None, "a blue flag", "", "cats &amp; dogs", "a red flag"]


def write(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def corpus(tmp_path) -> Path:
    return write(tmp_path / "web.parquet", {"key": range(6), "caption": CAPTIONS})


def test_captions_are_repaired_embedded_and_found_by_meaning_and_by_word(corpus, tmp_path):
    encoder, events = ToyEncoder(), list[ProgressEvent]()
    summary = build_index([corpus], index=tmp_path / "index", encoder=encoder, running=Running(report=events.append))
    assert (summary.read, summary.kept, summary.added, summary.repeated, summary.count) == (6, 4, 3, 1, 3)
    assert summary.already_there == 0
    assert (summary.dropped, summary.location) == ({"null": 1, "empty": 1}, str(tmp_path / "index"))
    embedding, loading = {"read", "clean", "embed", "write shards"}, {"look up", "read shards", "write", "optimise"}
    assert set(summary.seconds) == embedding | loading
    assert summary.bottleneck in summary.seconds
    assert (summary.embedded, summary.failed, summary.shards) == (3, 0, str(tmp_path / "index.shards"))
    assert ProgressEvent("embed", 6, 6, "captions") in events
    assert ProgressEvent("load", 3, 3, "captions") in events
    with open_store(tmp_path / "index", encoder=encoder.fingerprint) as store:
        [dense] = store.search(vectors=encoder.encode_text(["blue flag a"]).numpy(), limit=1)
        [lexical] = store.search(texts=["dogs"], mode="lexical")
    assert [(hit.id, hit.text, hit.source) for hit in dense + lexical] == [
        (caption_id("web", "a blue flag"), "a blue flag", "web"),
        (caption_id("web", "cats & dogs"), "cats & dogs", "web"),
    ]


def test_a_second_run_adds_and_embeds_nothing(corpus, tmp_path):
    build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder())
    encoder = CountingEncoder()
    summary = build_index([corpus], index=tmp_path / "index", encoder=encoder)
    assert (summary.added, summary.repeated, summary.already_there, summary.count) == (0, 1, 3, 3)
    assert encoder.embedded == []


def test_a_frame_is_indexed_as_its_file_is_and_recognised_by_its_content(tmp_path):
    frame = pl.DataFrame({"key": range(6), "caption": CAPTIONS, "source": ["web"] * 6})
    frame.write_parquet(tmp_path / "web.parquet")
    made = build_index(frame, index=tmp_path / "frame", encoder=ToyEncoder())
    from_file = build_index(tmp_path / "web.parquet", index=tmp_path / "file", encoder=ToyEncoder())
    facts = [(each.read, each.kept, each.dropped, each.added, each.repeated) for each in (made, from_file)]
    assert facts == [(6, 4, {"null": 1, "empty": 1}, 3, 1)] * 2
    encoder = CountingEncoder()
    again = build_index([frame.to_arrow()], index=tmp_path / "frame", encoder=encoder)
    assert (again.added, again.already_there, again.count, encoder.embedded) == (0, 3, 3, [])
    more = build_index(pl.DataFrame({"text": ["a new flag"]}), index=tmp_path / "frame", encoder=encoder)
    assert (more.added, more.count, encoder.embedded) == (1, 4, ["a new flag"])
    with open_store(tmp_path / "frame", encoder=encoder.fingerprint) as store:
        hits = store.search(texts=["flag"], mode="lexical")[0]
    assert {(hit.id, hit.text, hit.source) for hit in hits} == {
        (caption_id("web", "a red flag"), "a red flag", "web"),
        (caption_id("web", "a blue flag"), "a blue flag", "web"),
        (caption_id("frame", "a new flag"), "a new flag", "frame"),
    }


def test_sources_come_from_a_column_or_else_from_the_name_of_the_file(tmp_path):
    folder = tmp_path / "corpus/deep"
    folder.mkdir(parents=True)
    first = pa.array(["one", "two"]).dictionary_encode()
    write(folder / "a.parquet", {"alt": first, "source": ["x", None]})
    write(folder / "b.parquet", {"alt": pa.array(["one"], pa.large_string())})
    (folder / "notes.txt").write_text("not a caption file")
    build_index([tmp_path / "corpus"], index=tmp_path / "index", encoder=ToyEncoder(), columns="alt")
    with open_store(tmp_path / "index") as store:
        hits = store.sample(10, 0)
    assert {(hit.source, hit.text) for hit in hits} == {("x", "one"), ("a", "two"), ("b", "one")}


def test_a_build_that_was_killed_goes_on_and_embeds_only_what_has_no_shard(tmp_path):
    texts = [f"caption {row % 2900}" for row in range(3000)]
    corpus = write(tmp_path / "big.parquet", {"caption": texts})
    script = f"""
        import os, signal
        from rag_clip.captions.shards import ShardFolder
        from rag_clip.pipelines.captions import build_index
        from rag_clip.pipelines.running import Running
        from rag_clip.testing import ToyEncoder
        def kill(event):
            if event.done >= 2048:
                os.kill(os.getpid(), signal.SIGKILL)
        index = {str(tmp_path / "index")!r}
        shards, running = ShardFolder(rows=500), Running(report=kill)
        build_index([{str(corpus)!r}], index=index, encoder=ToyEncoder(), shards=shards, running=running)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -signal.SIGKILL
    finished = [manifest.start for manifest in read_manifests(tmp_path / "index.shards")]
    assert finished[:3] == [0, 500, 1000]
    encoder = CountingEncoder()
    summary = build_index([corpus], index=tmp_path / "index", encoder=encoder, shards=ShardFolder(rows=500))
    left = [start for start in range(0, 3000, 500) if start not in finished]
    assert sorted(encoder.embedded) == sorted(text for start in left for text in texts[start : start + 500])
    assert (summary.added, summary.repeated, summary.already_there, summary.count) == (2900, 100, 0, 2900)


def test_the_shards_are_removed_on_request(corpus, tmp_path):
    summary = build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder(), shards=ShardFolder(keep=False))
    assert (summary.count, (tmp_path / "index.shards").exists()) == (3, False)
    again = build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder(), shards=tmp_path / "kept")
    assert (again.embedded, again.added, again.count) == (3, 0, 3)
    assert (tmp_path / "kept").is_dir()


def test_cleaning_is_chosen_and_its_rules_over_the_whole_corpus_are_applied(tmp_path):
    one = write(tmp_path / "one.parquet", {"caption": ["a red flag", "a flag", "The end"]})
    two = write(tmp_path / "two.parquet", {"caption": ["A RED FLAG", "a green door at night"]})
    cleaning = CleaningSettings(duplicates=True, min_words=3)
    summary = build_index([one, two], index=tmp_path / "index", encoder=ToyEncoder(), cleaning=cleaning)
    assert (summary.count, summary.dropped) == (2, {"few_words": 2, "duplicate": 1})
    encoder = CountingEncoder()
    build_index([one, two], index=tmp_path / "index", encoder=encoder, cleaning=cleaning)
    assert encoder.embedded == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"words": ["a"], "url": ["b"]}, r"no column that looks like captions; name it, one of: words \(string\), url"),
        ({"caption": [1, 2]}, r"no column that looks like captions; name it, one of: caption \(int64\)"),
        ({"caption": pa.array([], pa.string())}, r"no usable caption in 0 rows \(no rows\)"),
        ({"caption": pa.array([None, None], pa.string())}, r"no usable caption in 2 rows \(2 null\)"),
        ({"caption": ["", " ", None]}, r"no usable caption in 3 rows \(2 empty, 1 null\)"),
    ],
)
def test_unusable_files_are_refused_and_no_index_is_made(tmp_path, columns, message):
    corpus = write(tmp_path / "web.parquet", columns)
    with pytest.raises(ValueError, match=message):
        build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder())
    assert not (tmp_path / "index").exists()


def test_paths_that_are_no_corpus_are_refused(corpus, tmp_path):
    def build(*paths: Path) -> None:
        build_index(paths, index=tmp_path / "index", encoder=ToyEncoder())

    with pytest.raises(FileNotFoundError, match=r"no such file: .*absent\.parquet"):
        build(corpus, tmp_path / "absent.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"the folder .*empty holds no file of captions"):
        build(tmp_path / "empty")
    (tmp_path / "text.parquet").write_text("a red flag")
    with pytest.raises(OSError, match=r"text\.parquet is not a readable parquet file"):
        build(tmp_path / "text.parquet")
    with pytest.raises(ValueError, match="no files of captions were given"):
        build()
    assert not (tmp_path / "index").exists()


def test_a_damaged_file_is_named(tmp_path):
    corpus = write(tmp_path / "web.parquet", {"caption": [f"caption {row}" for row in range(5000)]})
    content = bytearray(corpus.read_bytes())
    content[4:2000] = bytes(1996)
    corpus.write_bytes(content)
    with pytest.raises(OSError, match=r"web\.parquet is damaged"):
        build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder())


def test_another_encoder_or_schema_is_refused_before_anything_is_embedded(corpus, tmp_path):
    build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder())
    encoder = CountingEncoder(dim=16)
    with pytest.raises(ValueError, match=r"was built with toy .*toy-32\), but the encoder is toy .*toy-16"):
        build_index([corpus], index=tmp_path / "index", encoder=encoder)
    schema = load_schema().model_copy(update={"name": "other"})
    with pytest.raises(ValueError, match="another schema"):
        build_index([corpus], index=tmp_path / "index", encoder=CountingEncoder(), schema=schema)
    assert encoder.embedded == []


def test_other_cleaning_is_refused_before_anything_is_embedded_and_names_what_differs(corpus, tmp_path):
    build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder())
    encoder = CountingEncoder()
    cleaning = load_cleaning().model_copy(update={"max_words": 3, "min_words": 3})
    message = (
        r"cleaned with other settings \(min_words was 0, is 3; max_words was 80, is 3\); those that only these "
        "settings drop would stay in it: build another index, or clean as before"
    )
    with pytest.raises(ValueError, match=message):
        build_index([corpus], index=tmp_path / "index", encoder=encoder, cleaning=cleaning)
    assert encoder.embedded == []
    build_index([corpus], index=tmp_path / "other", encoder=encoder, cleaning=cleaning)
    with open_store(tmp_path / "other") as store:
        assert sorted(hit.text for hit in store.sample(9, 0)) == ["a blue flag", "a red flag"]


def test_the_cleaning_of_an_index_is_noted_before_its_first_caption(corpus, tmp_path):
    def stop(event: ProgressEvent) -> None:
        if event.stage == "load":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder(), running=Running(report=stop))
    with pytest.raises(ValueError, match="max_words was 80, is None"):
        build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder(), cleaning=load_cleaning("none"))
    build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder())
    with open_store(tmp_path / "index") as store:
        facts = {name: value for name, value in store.card.notes["corpus"].items() if name not in ("date", "cleaning")}
    assert facts == {
        "files": 1, "files_in_part": 0, "shards": 1, "read": 6, "dropped": {"null": 1, "empty": 1}, "repeated": 1,
        "kept": 3,
    }  # fmt: skip
