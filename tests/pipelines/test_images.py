"""The images job: what it stores, counts and reuses."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.pairs import caption, colour_pairs, write_pairs, write_tar
from inputs.pictures import LightEncoder, picture
from rag_clip.images.opening import Images
from rag_clip.images.perceptual import perceptual_hash
from rag_clip.models.decode import decode_image
from rag_clip.pipelines.images import ImagesSummary, index_images, load_image_schema
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent
from rag_clip.store import caption_id, open_store
from rag_clip.testing import ToyEncoder


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


def run(paths: list[Path] | Images, index: Path, **settings: Any) -> ImagesSummary:
    defaults: dict[str, Any] = {"encoder": ToyEncoder(), "running": Running(0), "noise": False}
    return index_images(paths, index=index, **defaults | settings)


def stored(index: Path) -> list[dict[str, Any]]:
    with open_store(index) as store:
        batches = list(store.scroll(vectors=True, payload=True))
    return pa.Table.from_batches(batches).to_pylist()


def test_a_pair_is_stored_with_both_vectors_and_its_facts(tmp_path: Path, index: Path):
    image = picture("red", size=(40, 30))
    source = write_pairs(tmp_path / "web.parquet", [image], ["a red  square"], url=["http://x/1"])
    summary = run([source], index)
    sha256 = hashlib.sha256(image).hexdigest()
    [row] = stored(index)
    vectors = {name: row.pop(name) for name in ("vector_image", "vector_text")}
    assert row == {
        "id": caption_id(sha256, "a red square"),
        "text": "a red square",
        "source": "web",
        "url": "http://x/1",
        "sha256": sha256,
        "phash": f"{perceptual_hash(decode_image(image)):016x}",
        "width": 40,
        "height": 30,
        "noise": None,
    }
    encoder = ToyEncoder()
    expected = [encoder.encode_images([image]).pooled[0], encoder.encode_text(["a red square"])[0]]
    np.testing.assert_allclose(list(vectors.values()), np.stack(expected), atol=1e-3)
    assert (summary.rows, summary.usable, summary.failed, summary.embedded, summary.count) == (1, 1, 0, 1, 1)
    assert set(summary.seconds) == {
        "read", "decode", "encode images", "encode captions", "write shards", "clean", "noise", "load", "optimise",
    }  # fmt: skip


def test_images_and_captions_are_searched_apart(tmp_path: Path, index: Path):
    pairs = [picture("red"), picture("blue")], ["blue by mistake", "a red lie"]
    run([write_pairs(tmp_path / "in.parquet", *pairs)], index)
    query = ToyEncoder().encode_text(["red"]).numpy()
    with open_store(index) as store:
        by_default, by_image, by_text = (
            [hit.text for hit in store.search(vectors=query, limit=1, vector=name)[0]]
            for name in (None, "image", "text")
        )
    assert (by_default, by_image, by_text) == (["blue by mistake"], ["blue by mistake"], ["a red lie"])


def test_rows_that_cannot_be_used_are_listed_with_their_reason(tmp_path: Path, index: Path):
    images = [picture("red"), b"broken", None, picture("green"), picture("blue"), picture("red")]
    captions = ["fine", "a", "b", None, " \t ", "x" * 10_001]
    summary = run([write_pairs(tmp_path / "in.parquet", images, captions)], index)
    assert (summary.rows, summary.usable, summary.failed, summary.count) == (6, 1, 5, 1)
    assert summary.reasons == {
        "not an image of a known format": 1,
        "the image is null": 1,
        "the caption is null": 1,
        "the caption is empty": 1,
        "the caption has ... characters": 1,
    }
    failures = pq.read_table(summary.failures).to_pylist()
    assert [(row["file"], row["key"]) for row in failures] == [
        (str(tmp_path / "in.parquet"), str(row)) for row in range(1, 6)
    ]
    assert [row["error"].split(" (")[0] for row in failures][1:] == [
        "the image is null",
        "the caption is null",
        "the caption is empty",
        "the caption has 10,001 characters; the limit is 10,000",
    ]


def test_a_second_run_embeds_and_adds_nothing(tmp_path: Path, index: Path):
    source = colour_pairs(tmp_path / "in.parquet", "red", "green", "blue")
    first = run([source], index)
    before = stored(index)
    second = run([source], index)
    assert (first.embedded, first.from_shards) == (3, 0)
    assert (second.embedded, second.from_shards, second.count) == (0, 3, 3)
    assert stored(index) == before


def test_the_same_image_and_caption_is_one_point_and_another_caption_a_second(tmp_path: Path, index: Path):
    images = [picture("red")] * 3
    summary = run([write_pairs(tmp_path / "in.parquet", images, ["one", "one", "two"])], index)
    assert (summary.usable, summary.count) == (3, 2)
    assert sorted(row["text"] for row in stored(index)) == ["one", "two"]


def test_shards_serve_another_index_without_embedding(tmp_path: Path, index: Path):
    source = colour_pairs(tmp_path / "in.parquet", "red", "green")
    run([source], index, shards=tmp_path / "shards")
    schema = load_image_schema().model_copy(update={"name": "other"})
    summary = run([source], tmp_path / "other", shards=tmp_path / "shards", schema=schema)
    assert (summary.embedded, summary.count) == (0, 2)
    assert stored(tmp_path / "other") == stored(index)


def test_a_run_that_was_cut_short_goes_on_with_the_next_shard(tmp_path: Path, index: Path):
    source = colour_pairs(tmp_path / "in.parquet", *(["red", "green", "blue"] * 4))

    def stop(event: ProgressEvent) -> None:
        if event.done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([source], index, encoder=LightEncoder(), running=Running(report=stop, shard_rows=4))
    summary = run([source], index, encoder=LightEncoder(), running=Running(0, shard_rows=4))
    assert (summary.embedded, summary.from_shards, summary.count) == (4, 8, 3)


def test_a_damaged_shard_is_embedded_again(tmp_path: Path, index: Path):
    source = colour_pairs(tmp_path / "in.parquet", "red", "green")
    run([source], index)
    [shard] = (tmp_path / "index.shards").rglob("00000.parquet")
    shard.write_bytes(shard.read_bytes()[:-20])
    assert run([source], index).embedded == 2


def test_worker_processes_store_what_this_process_stores(tmp_path: Path, index: Path):
    images = [picture(name, kind="JPEG") for name in ("red", "green", "blue")] + [b"broken"]
    source = write_pairs(tmp_path / "in.parquet", images, ["a", "b", "c", "d"])
    run([source], index, encoder=LightEncoder())
    run([source], tmp_path / "parallel", encoder=LightEncoder(), running=Running(2))
    assert stored(tmp_path / "parallel") == stored(index)


def test_an_image_that_was_not_there_is_read_on_the_next_run(tmp_path: Path, index: Path):
    source = write_pairs(tmp_path / "in.parquet", ["now.png", "late.png"], ["now", "late"])
    (tmp_path / "now.png").write_bytes(picture("red"))
    assert run([source], index).reasons == {"cannot read ...: No such file or directory": 1}
    (tmp_path / "late.png").write_bytes(picture("blue"))
    summary = run([source], index)
    assert (summary.embedded, summary.failed, summary.count) == (2, 0, 2)


def test_columns_may_have_other_names(tmp_path: Path, index: Path):
    table = pa.table({"photo": [picture("red")], "alt": ["a red square"], "link": ["http://x"]})
    pq.write_table(table, tmp_path / "in.parquet")
    run(Images([tmp_path / "in.parquet"], image_column="photo", caption_column="alt", url_column="link"), index)
    assert [(row["text"], row["url"]) for row in stored(index)] == [("a red square", "http://x")]


def test_folders_of_tars_and_parquet_files_are_taken_together(tmp_path: Path, index: Path):
    write_tar(tmp_path / "laion" / "00000.tar", "red")
    write_tar(tmp_path / "laion" / "later" / "00001.tar", "green")
    colour_pairs(tmp_path / "laion" / "00000.parquet", "green")
    colour_pairs(tmp_path / "own.parquet", "blue")
    run([tmp_path / "laion", tmp_path / "own.parquet"], index)
    assert sorted((row["source"], row["text"], row["url"]) for row in stored(index)) == [
        ("laion", caption("green"), "http://x/00000"),
        ("laion", caption("red"), "http://x/00000"),
        ("own", caption("blue"), ""),
    ]


def test_progress_counts_the_rows_of_both_stages(tmp_path: Path, index: Path):
    events: list[ProgressEvent] = []
    source = colour_pairs(tmp_path / "in.parquet", "red", "green", "blue")
    run([source], index, running=Running(0, 2, report=events.append))
    assert [(event.stage, event.done, event.total) for event in events if event.unit == "images"] == [
        ("embed", 2, None), ("embed", 3, None), ("load", 3, 3),
    ]  # fmt: skip


def test_pairs_that_do_not_fit_have_a_higher_probability_of_noise(tmp_path: Path, index: Path):
    colours = ["red", "green", "blue"] * 20
    wrong = {4: "blue", 31: "red", 50: "green"}
    images = [picture(name, size=(9 + row, 9)) for row, name in enumerate(colours)]
    captions = [f"{wrong.get(row, name)} {row}" for row, name in enumerate(colours)]
    summary = run([write_pairs(tmp_path / "in.parquet", images, captions)], index, noise=True)
    noise = {int(row["text"].split()[1]): row["noise"] for row in stored(index)}
    assert {row for row, probability in noise.items() if probability >= 0.5} == set(wrong)
    assert summary.noisy == 3
    query = ToyEncoder().encode_text(["green"]).numpy()
    with open_store(index) as store:
        likely, doubtful = (
            store.search(vectors=query, where={"noise": ends})[0] for ends in ((None, 0.5), (0.5, None))
        )
    assert ({int(hit.text.split()[1]) for hit in doubtful}, len(likely)) == (set(wrong), 57)


def test_noise_does_not_depend_on_shards(tmp_path: Path, index: Path):
    source = colour_pairs(tmp_path / "in.parquet", *(["red", "green", "blue"] * 3))
    run([source], index, noise=True)
    run([source], tmp_path / "small", noise=True, running=Running(0, shard_rows=2))
    assert stored(tmp_path / "small") == stored(index)


def test_a_single_pair_has_no_probability_of_noise(tmp_path: Path, index: Path):
    summary = run([colour_pairs(tmp_path / "in.parquet", "red")], index, noise=True)
    assert (summary.noisy, [row["noise"] for row in stored(index)]) == (None, [None])
