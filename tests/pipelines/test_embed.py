from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from inputs.captions import CountingEncoder, write_captions
from inputs.limits import limited
from rag_clip.captions.shards import ShardFolder, read_manifests
from rag_clip.corpus.cleaning import load_cleaning
from rag_clip.files.lock import BusyError, locked
from rag_clip.pipelines.embed import embed_captions
from rag_clip.pipelines.load import load_shards
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent, silent
from rag_clip.store import caption_id
from rag_clip.testing import ToyEncoder

TEXTS = ["a red flag", None, "a  blue flag", "", "a red flag", "cats &amp; dogs", "a green door"]


@pytest.fixture
def corpus(tmp_path) -> Path:
    return write_captions(tmp_path / "web.parquet", TEXTS)


def embed(corpus: Path, encoder=None, report=silent, **options):
    shards = ShardFolder(**{"path": corpus.parent / "shards", "rows": 3, **options})
    return embed_captions([corpus], shards=shards, encoder=encoder or ToyEncoder(), running=Running(report=report))


def manifests(folder: Path) -> list[dict]:
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda manifest: (manifest["url"], manifest["start"]))


def rows(folder: Path) -> list[tuple[str, str, str]]:
    tables = [pq.read_table(folder / f"{manifest['key']}.parquet") for manifest in manifests(folder)]
    return [(row["id"], row["text"], row["source"]) for table in tables for row in table.to_pylist()]


def test_captions_are_cleaned_cut_into_shards_and_described(corpus, tmp_path):
    events: list[ProgressEvent] = []
    summary = embed(corpus, report=events.append)
    assert (summary.read, summary.kept, summary.repeated, summary.dropped) == (7, 5, 0, {"null": 1, "empty": 1})
    assert (summary.embedded, summary.written, summary.finished, summary.failed) == (5, 3, 0, 0)
    assert set(summary.seconds) == {"read", "clean", "embed", "write shards"}
    assert events[-1] == ProgressEvent("embed", 7, 7, "captions")
    texts = ["a red flag", "a blue flag", "a red flag", "cats & dogs", "a green door"]
    assert rows(tmp_path / "shards") == [(caption_id("web", text), text, "web") for text in texts]
    first, second, third = manifests(tmp_path / "shards")
    assert [manifest["start"] for manifest in (first, second, third)] == [0, 3, 6]
    assert [manifest["last"] for manifest in (first, second, third)] == [False, False, True]
    assert tuple(manifest["key"] for manifest in (first, second, third)) == summary.keys
    del first["created"], first["identity"], first["settings"], first["content"], first["checksum"]
    assert first == {
        "key": summary.keys[0],
        "url": first["url"],
        "start": 0,
        "rows": 3,
        "last": False,
        "cleaning": load_cleaning().model_dump(mode="json"),
        "encoder": asdict(ToyEncoder().fingerprint),
        "dim": 32,
        "kept": 2,
        "repeated": 0,
        "dropped": {"null": 1},
        "probes": [caption_id("web", "a red flag"), caption_id("web", "a blue flag")],
        "status": "done",
        "reason": "",
        "version": 0,
    }
    assert first["url"].endswith("web.parquet")


def test_vectors_are_kept_in_sixteen_bits(corpus, tmp_path):
    [key] = embed(corpus, rows=100).keys
    table = pq.read_table(tmp_path / "shards" / f"{key}.parquet")
    assert str(table.schema.field("vector").type) == "fixed_size_list<element: halffloat>[32]"
    halves = np.stack(table["vector"].to_numpy())
    exact = ToyEncoder().encode_text(table["text"].to_pylist()).numpy()
    assert np.array_equal(halves, exact.astype(np.float16))


def test_a_second_run_embeds_nothing_and_tells_the_same(corpus):
    first = embed(corpus)
    encoder = CountingEncoder()
    second = embed(corpus, encoder)
    assert encoder.embedded == []
    assert (second.read, second.kept, second.dropped, second.keys) == (
        first.read,
        first.kept,
        first.dropped,
        first.keys,
    )
    assert (second.embedded, second.written, second.finished) == (0, 0, 3)


def test_a_shard_without_its_manifest_is_embedded_again_and_no_other(corpus, tmp_path):
    summary = embed(corpus)
    before = rows(tmp_path / "shards")
    (tmp_path / "shards" / f"{summary.keys[1]}.json").unlink()
    encoder = CountingEncoder()
    assert embed(corpus, encoder).written == 1
    assert sorted(encoder.embedded) == ["a red flag", "cats & dogs"]
    assert rows(tmp_path / "shards") == before


def test_a_file_whose_rows_only_reading_can_count_is_finished_too(tmp_path):
    corpus = tmp_path / "lines.txt"
    corpus.write_text("".join(f"caption {row}\n" for row in range(6)))
    first = embed(corpus)
    assert [manifest["last"] for manifest in manifests(tmp_path / "shards")] == [False, True]
    encoder = CountingEncoder()
    second = embed(corpus, encoder)
    assert (second.finished, second.keys, "clean" in second.seconds) == (2, first.keys, False)
    (tmp_path / "shards" / f"{first.keys[1]}.json").unlink()
    embed(corpus, encoder)
    assert sorted(encoder.embedded) == ["caption 3", "caption 4", "caption 5"]
    parts = [embed(corpus, path=tmp_path / f"part {part}", part=(part, 2)) for part in range(2)]
    assert sorted(key for part in parts for key in part.keys) == sorted(first.keys)


def test_what_a_file_says_of_its_images_stays_with_its_captions(tmp_path):
    corpus = write_captions(tmp_path / "web.parquet", ["one"], url=["http://x/1.jpg"], width=[640], height=[480])
    [key] = embed(corpus).keys
    [row] = pq.read_table(tmp_path / "shards" / f"{key}.parquet").drop_columns("vector").to_pylist()
    assert row == {
        "id": caption_id("web", "one"),
        "text": "one",
        "source": "web",
        "url": "http://x/1.jpg",
        "width": 640,
        "height": 480,
    }
    assert load_shards(tmp_path / "shards", index=tmp_path / "index").count == 1


def test_a_repeated_caption_of_a_shard_is_embedded_once(tmp_path):
    corpus = write_captions(tmp_path / "web.parquet", ["one", "two", "one", "one"], source=["x", "x", "x", "y"])
    encoder = CountingEncoder()
    summary = embed(corpus, encoder, rows=10)
    assert (summary.kept, summary.repeated) == (3, 1)
    assert [(text, source) for _, text, source in rows(tmp_path / "shards")] == [
        ("one", "x"),
        ("two", "x"),
        ("one", "y"),
    ]


def test_dropped_rows_are_sampled_by_reason(tmp_path):
    corpus = write_captions(tmp_path / "web.parquet", ["kept", *[None] * 30, " ", "\n"])
    [key] = embed(corpus, rows=100).keys
    dropped = pq.read_table(tmp_path / "shards/dropped" / f"{key}.parquet").to_pylist()
    found = [(row["row"], row["text"], row["reason"]) for row in dropped]
    assert found[-2:] == [(31, " ", "empty"), (32, "\n", "empty")]
    assert [reason for _, _, reason in found] == ["null"] * 20 + ["empty"] * 2


def test_other_texts_encoder_or_rows_make_other_shards(corpus, tmp_path):
    keys = {*embed(corpus).keys, *embed(corpus, ToyEncoder(dim=16)).keys, *embed(corpus, rows=4).keys}
    write_captions(corpus, [*TEXTS, "one more"])
    keys |= set(embed(corpus).keys)
    assert len(keys) == 3 + 3 + 2 + 3


def test_parts_share_out_the_shards_and_together_make_them_all(tmp_path):
    corpus = write_captions(tmp_path / "web.parquet", [f"caption {row}" for row in range(100)])
    whole = embed(corpus, rows=5)
    parts = [embed(corpus, rows=5, path=tmp_path / "parts", part=(part, 3)) for part in range(3)]
    assert sorted(key for part in parts for key in part.keys) == sorted(whole.keys)
    assert [part.written for part in parts] in ([7, 7, 6], [7, 6, 7], [6, 7, 7])
    assert rows(tmp_path / "parts") == rows(tmp_path / "shards")
    encoder = CountingEncoder()
    assert embed(corpus, encoder, rows=5, path=tmp_path / "parts", part=(1, 3)).written == 0
    with pytest.raises(ValueError, match="there is no part 3 of 3; parts are counted from 0"):
        embed(corpus, part=(3, 3))


def test_one_process_at_a_time_embeds_into_a_folder(corpus, tmp_path):
    shards = tmp_path / "shards"
    with (
        locked(shards / "lock", doing="test"),
        pytest.raises(BusyError, match=r"cannot embed into .*shards: process \d+ is at it"),
    ):
        embed(corpus)
    with locked(shards / "lock", doing="test", shared=True):
        with pytest.raises(BusyError, match="cannot embed into"):
            embed(corpus)
        assert embed(corpus, part=(0, 1000)).failed == 0
    with locked(shards / "lock-0-of-1000", doing="test"), pytest.raises(BusyError, match="cannot embed into"):
        embed(corpus, part=(0, 1000))


def test_a_damaged_file_keeps_what_could_be_read_and_is_retried_on_request(tmp_path):
    good = write_captions(tmp_path / "good.parquet", ["one", "two"])
    bad = tmp_path / "bad.parquet"
    write_captions(bad, [f"caption {row}" for row in range(5000)])
    content = bytearray(bad.read_bytes())
    content[4:2000] = bytes(1996)
    bad.write_bytes(content)
    summary = embed_captions([bad, good], shards=tmp_path / "shards", encoder=ToyEncoder())
    assert (summary.failed, summary.kept) == (1, 2)
    assert "bad.parquet" in summary.failures[0]
    again = embed_captions([bad, good], shards=tmp_path / "shards", encoder=ToyEncoder())
    assert (again.written, again.failures) == (0, summary.failures)
    retried = embed_captions(
        [bad, good], encoder=ToyEncoder(), shards=ShardFolder(tmp_path / "shards", retry_failed=True)
    )
    assert (retried.written, retried.failures) == (1, summary.failures)


@dataclass(frozen=True, slots=True)
class BlindEncoder(ToyEncoder):
    """Gives NaN for one text and zero for another."""

    def encode_text(self, texts) -> torch.Tensor:
        rows = ToyEncoder.encode_text(self, texts)
        rows[[text == "a green door" for text in texts]] = float("nan")
        rows[[text == "cats & dogs" for text in texts]] = 0
        return rows


def test_captions_without_a_usable_vector_are_dropped_and_counted(corpus, tmp_path):
    summary = embed(corpus, BlindEncoder(), rows=100)
    assert (summary.kept, summary.repeated) == (2, 1)
    assert summary.dropped == {"null": 1, "empty": 1, "no vector": 2}
    assert [text for _, text, _ in rows(tmp_path / "shards")] == ["a red flag", "a blue flag"]


def test_an_error_of_the_encoder_keeps_the_shards_before_it(corpus, tmp_path):
    class Failing(CountingEncoder):
        def encode_text(self, texts):
            if "a green door" in texts:
                raise RuntimeError("out of memory")
            return CountingEncoder.encode_text(self, texts)

    with pytest.raises(RuntimeError, match="out of memory"):
        embed(corpus, Failing())
    assert [manifest["start"] for manifest in manifests(tmp_path / "shards")] == [0, 3]


def test_a_damaged_manifest_is_named(corpus, tmp_path):
    [key, *_] = embed(corpus).keys
    (tmp_path / "shards" / f"{key}.json").write_text("{")
    with pytest.raises(ValueError, match=rf"{key}\.json is not the manifest of a shard .*; delete it"):
        embed(corpus)


def test_a_full_disk_is_told_and_what_was_finished_stays(tmp_path):
    corpus = write_captions(tmp_path / "web.parquet", ["one", None, None, None, None, *map(str, range(5))])
    written = r"cannot write captions to .*make room and run again, finished shards are kept"
    with limited(resource.RLIMIT_FSIZE, 5000), pytest.raises(OSError, match=written):
        embed_captions([corpus], shards=ShardFolder(tmp_path / "shards", rows=5), encoder=ToyEncoder(dim=512))
    assert [manifest["kept"] for manifest in manifests(tmp_path / "shards")] == [1]
    assert not list((tmp_path / "shards").glob(".*"))


@dataclass(frozen=True)
class Elsewhere:
    """Works in another folder, as a node does that does not share this one."""

    folder: Path
    count: int = 1
    remote: bool = True

    def run(self, work: Any, *, encoder: Any, given: Any, units: Any) -> Iterator[Any]:
        for unit in units:
            with chdir(self.folder):
                done = work(encoder, given, unit)
            yield done


def test_shards_that_stay_on_another_machine_are_an_error(tmp_path, monkeypatch):
    captions = write_captions(tmp_path / "captions.parquet", ["a cat", "a dog"])
    (tmp_path / "node").mkdir()
    monkeypatch.chdir(tmp_path)
    running = Running(elsewhere=Elsewhere(tmp_path / "node"))
    with pytest.raises(ValueError, match="the shards of the workers are not in shards; give a folder that every node"):
        embed_captions([captions], shards="shards", encoder=ToyEncoder(), running=running)
    made = embed_captions([captions], shards=tmp_path / "all", encoder=ToyEncoder(), running=running)
    assert (made.kept, len(read_manifests(tmp_path / "all"))) == (2, len(made.keys))
