"""The images job and the cleaning of its captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from inputs.pairs import colour_pairs, write_pairs
from inputs.pictures import picture
from rag_clip.corpus.cleaning import CleaningSettings, load_cleaning
from rag_clip.pipelines.images import ImagesSummary, index_images
from rag_clip.pipelines.running import Running
from rag_clip.store import open_store
from rag_clip.testing import ToyEncoder


def run(paths: list[Path], index: Path, **settings: Any) -> ImagesSummary:
    defaults: dict[str, Any] = {"encoder": ToyEncoder(), "running": Running(0), "noise": False}
    return index_images(paths, index=index, **defaults | settings)


def texts(index: Path) -> list[str]:
    with open_store(index) as store:
        return sorted(hit.text for hit in store.sample(1000, 0))


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


def test_a_caption_that_the_default_preset_drops_is_dropped_with_its_image_and_counted(tmp_path: Path, index: Path):
    images = [picture("red"), picture("blue"), b"broken", picture("green")]
    captions = ["a red flag", "Click to enlarge", "a blue flag", "word " * 90]
    summary = run([write_pairs(tmp_path / "in.parquet", images, captions)], index)
    assert (summary.rows, summary.usable, summary.failed, summary.count) == (4, 1, 1, 1)
    assert summary.dropped == {"boilerplate": 1, "many_words": 1}
    assert texts(index) == ["a red flag"]
    [sample] = (tmp_path / "index.shards/dropped").iterdir()
    rows = pq.read_table(sample).to_pylist()
    assert [(row["file"], row["row"], row["key"], row["text"], row["reason"]) for row in rows] == [
        (str(tmp_path / "in.parquet"), 1, "1", "Click to enlarge", "boilerplate"),
        (str(tmp_path / "in.parquet"), 3, "3", ("word " * 90).strip(), "many_words"),
    ]
    with open_store(index) as store:
        noted = dict(store.card.notes["corpus"])
    del noted["date"]
    assert noted == {
        "files": 1,
        "read": 4,
        "dropped": {"not an image of a known format": 1, "boilerplate": 1, "many_words": 1},
        "kept": 1,
        "cleaning": load_cleaning().model_dump(mode="json"),
    }


def test_other_cleaning_embeds_nothing_again_and_leaves_no_sample_of_the_one_before(tmp_path: Path, index: Path):
    source = colour_pairs(tmp_path / "in.parquet", "red", "green", "blue")
    none = load_cleaning("none")
    first = run([source], index, cleaning=CleaningSettings(max_characters=12), shards=tmp_path / "shards")
    assert (first.usable, first.dropped, texts(index)) == (1, {"many_characters": 2}, ["a red square"])
    with pytest.raises(ValueError, match="max_characters was 12, is None"):
        run([source], index, cleaning=none, shards=tmp_path / "shards")
    assert texts(index) == ["a red square"]
    again = run([source], tmp_path / "other", cleaning=none, shards=tmp_path / "shards")
    assert (again.embedded, again.usable, again.dropped) == (0, 3, {})
    assert list((tmp_path / "shards/dropped").iterdir()) == []


def test_rules_over_the_whole_corpus_look_at_all_files_and_tell_images_by_their_content(tmp_path: Path, index: Path):
    one = write_pairs(tmp_path / "one.parquet", [picture("red")] * 3, ["flag", "kite", "sea"], url=["x", "y", "z"])
    images = [picture("red"), picture("blue"), picture("green")]
    two = write_pairs(tmp_path / "two.parquet", images, ["moon", "Kite", "kite"])
    shared = run([one, two], index, cleaning=CleaningSettings(max_images=2))
    assert (shared.dropped, texts(index)) == ({"shared": 3}, ["flag", "moon", "sea"])
    crowded = run([one, two], tmp_path / "crowded", cleaning=CleaningSettings(max_texts=3))
    assert (crowded.dropped, texts(tmp_path / "crowded")) == ({"crowded": 4}, ["Kite", "kite"])
    sizes = CleaningSettings(image_over=8, max_texts=3)
    large = write_pairs(tmp_path / "large.parquet", [picture("red", size=(9, 9)), picture("red")], ["one", "two"])
    assert run([large], tmp_path / "sizes", cleaning=sizes).dropped == {"image_small": 1}


def test_noise_is_judged_among_the_pairs_that_are_kept(tmp_path: Path, index: Path):
    colours = ["red", "green", "blue"] * 4
    kept = [picture(name, size=(9 + row, 9)) for row, name in enumerate(colours)]
    clean = write_pairs(tmp_path / "clean.parquet", kept, [f"{name} {row}" for row, name in enumerate(colours)])
    run([clean], index, noise=True)
    images = [image for image in kept for _ in range(2)]
    captions = [text for row, name in enumerate(colours) for text in (f"{name} {row}", "click to enlarge")]
    mixed = write_pairs(tmp_path / "mixed.parquet", images, captions)
    summary = run([mixed], tmp_path / "mixed", noise=True)
    assert summary.dropped == {"boilerplate": 12}
    assert noise(tmp_path / "mixed") == noise(index)


def noise(index: Path) -> dict[str, float]:
    with open_store(index) as store:
        rows = [row for batch in store.scroll(payload=True) for row in batch.to_pylist()]
    return {row["text"]: row["noise"] for row in rows}


def test_captions_that_are_all_dropped_make_no_index(tmp_path: Path, index: Path):
    source = colour_pairs(tmp_path / "in.parquet", "red", "green")
    with pytest.raises(ValueError, match="no row of 2 is an image with a caption to keep: 2 x few_words"):
        run([source], index, cleaning=CleaningSettings(min_words=9))
    assert not index.exists()


def test_cleaning_by_language_is_refused_before_anything_is_embedded(tmp_path: Path, index: Path):
    source = colour_pairs(tmp_path / "in.parquet", "red")
    with pytest.raises(ValueError, match="`languages` is en, but pairs record no language; leave out `languages`"):
        run([source], index, cleaning=CleaningSettings(languages=("en",)))
    assert not (tmp_path / "index.shards").exists()
