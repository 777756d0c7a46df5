"""Images with several captions, and names with dots in tars, in `index images` and `index build`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.pairs import add
from inputs.pictures import picture
from rag_clip.captions.sources.finding import find_sources, read_source
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.images import ImagesSummary, index_images
from rag_clip.pipelines.running import Running
from rag_clip.store import open_store
from rag_clip.testing import ToyEncoder

CAPTIONS = {"red": ["a red square", "one square of red"], "blue": ["a blue square"], "green": ["a green square"] * 2}
PAIRS = sorted({(name, text) for name, texts in CAPTIONS.items() for text in texts})


def index(path: Path, **settings: Any) -> ImagesSummary:
    """Index pairs, with an encoder that notes each image."""
    defaults: dict[str, Any] = {
        "encoder": ToyEncoder(),
        "running": Running(0),
        "noise": False,
        "index": path.parent / "index",
    }
    return index_images([path], **defaults | settings)


def stored(place: Path) -> list[tuple[str, str]]:
    """Return (colour of the image, caption) of each point, the colour by the image's vector."""
    vectors = {name: ToyEncoder().encode_images([picture(name)]).pooled[0].numpy() for name in CAPTIONS}
    with open_store(place) as store:
        hits = store.search(vectors=vectors["red"][None], limit=99, vector="image")[0]
        images = store.vectors([hit.id for hit in hits], vector="image")
    return sorted((max(vectors, key=lambda name: images[hit.id] @ vectors[name]), hit.text) for hit in hits)


def lists(kind: pa.DataType, folder: Path) -> Path:
    images = [picture(name) for name in CAPTIONS]
    pq.write_table(
        pa.table({"image": images, "caption": pa.array(list(CAPTIONS.values()), kind)}), folder / "p.parquet"
    )
    return folder / "p.parquet"


def tar_of_lists(folder: Path) -> Path:
    with tarfile.open(folder / "p.tar", "w") as tar:
        for name, texts in CAPTIONS.items():
            add(tar, f"{name}.png", picture(name))
            add(tar, f"{name}.json", json.dumps({"caption": texts}).encode())
    return folder / "p.tar"


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string())], ids=str)
def test_each_caption_of_a_list_is_stored_with_its_image(tmp_path: Path, kind: pa.DataType):
    found = index(lists(kind, tmp_path))
    assert (found.rows, found.usable, found.failed, found.embedded, found.count) == (5, 5, 0, 5, 4)
    assert stored(tmp_path / "index") == PAIRS


def test_lists_in_the_facts_of_a_tar_are_captions(tmp_path: Path):
    assert index(tar_of_lists(tmp_path)).usable == 5
    assert stored(tmp_path / "index") == PAIRS


def test_captions_may_be_dictionary_encoded(tmp_path: Path):
    captions = pa.array([texts[0] for texts in CAPTIONS.values()]).dictionary_encode()
    images = [picture(name) for name in CAPTIONS]
    pq.write_table(pa.table({"image": images, "caption": captions}), tmp_path / "p.parquet")
    index(tmp_path / "p.parquet")
    assert stored(tmp_path / "index") == sorted((name, texts[0]) for name, texts in CAPTIONS.items())


def test_an_image_without_a_usable_caption_is_a_failed_row(tmp_path: Path):
    captions = [["a red square", None, ""], [], None]
    pq.write_table(pa.table({"image": [picture("red")] * 3, "caption": captions}), tmp_path / "p.parquet")
    found = index(tmp_path / "p.parquet")
    assert dict(found.reasons) == {
        "the caption is null": 2, "the caption is empty": 1, "the list of captions is empty": 1
    }  # fmt: skip
    assert (found.rows, found.count) == (5, 1)


def test_a_second_run_embeds_no_caption_again(tmp_path: Path):
    path, running = lists(pa.list_(pa.string()), tmp_path), Running(0, shard_rows=2)
    index(path, running=running)
    next((tmp_path / "index.shards").rglob("00001.parquet")).unlink()
    again = index(path, running=running)
    assert (again.rows, again.embedded, again.from_shards, again.count) == (5, 2, 3, 4)
    assert stored(tmp_path / "index") == PAIRS


def test_build_takes_the_captions_of_lists_and_tars(tmp_path: Path):
    texts = sorted({text for _, text in PAIRS})
    for place in (lists(pa.list_(pa.string()), tmp_path), tar_of_lists(tmp_path)):
        captions = [
            row["text"] for source in find_sources([place]) for b in read_source(source) for row in b.to_pylist()
        ]
        assert sorted(set(captions)) == texts


@pytest.fixture
def dotted(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "dots.tar", "w") as tar:
        for key, name in (("IMG.2020.01", "red"), ("IMG.2020.02", "green"), ("plain", "blue")):
            add(tar, f"{key}.png", picture(name))
            add(tar, f"{key}.txt", f"a {name} square".encode())
        add(tar, "plain.seg.png", picture("red"))
    return tmp_path / "dots.tar"


def test_names_with_dots_are_not_one_sample_and_each_is_counted(tmp_path: Path, dotted: Path):
    found = index(dotted)
    assert dict(found.reasons) == {"the name ... has a dot, and webdataset ends a name at its first dot": 2}
    assert pq.read_table(found.failures)["key"].to_pylist() == ["IMG.2020.01", "IMG.2020.02"]
    assert stored(tmp_path / "index") == [("blue", "a blue square")]


def test_captions_of_names_with_dots_are_counted(tmp_path: Path, dotted: Path):
    [source] = find_sources([dotted])
    rows = [(row["text"], row["error"]) for batch in read_source(source) for row in batch.to_pylist()]
    assert rows == [(None, "dotted_name"), (None, "dotted_name"), ("a blue square", None)]
    built = build_index([dotted], index=tmp_path / "built", encoder=ToyEncoder())
    assert (built.read, built.kept, dict(built.dropped)) == (3, 1, {"dotted_name": 2})


def test_a_tar_of_names_with_dots_alone_is_refused_with_the_reason(tmp_path: Path):
    with tarfile.open(tmp_path / "dots.tar", "w") as tar:
        add(tar, "IMG.2020.txt", b"a flag")
    with pytest.raises(OSError, match="none of its first 1 row can be read, the first being dotted_name"):
        find_sources([tmp_path / "dots.tar"])
