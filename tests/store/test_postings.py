"""Postings beside an index answer as its engine does, or not at all."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from inputs.folders import copy_folder
from rag_clip.data import Fingerprint, Hit
from rag_clip.demo.captions import caption
from rag_clip.demo.concepts import concepts
from rag_clip.progress import ProgressEvent
from rag_clip.store import Store, caption_id, create_store, load_schema, open_store
from rag_clip.words import words_of

DIM = 16
ENCODER = Fingerprint("toy", "", "weights-1", "8x8")
ODD = [
    "St. Bernard in the snow",
    "the st bernard's puppies, St Bernard's and a saint",
    "Bernard St. in town",
    "AC/DC on stage with ac-dc shirts",
    "an AC unit, a DC motor",
    "Straße im Regen, STRASSE",
    "cafe\u0301 with a cafe and a café",
    "猫在沙发上 a cat",
    "a bus-stop, two buses, one bus: bus bus",
    "the bus stop's bench by the bus",
    "dog, dogs and the dog's dog",
    "new york new york",
    "york, new and old",
    "rock 'n' roll at 33,5 rpm",
    "snake_case and CamelCase 4x4",
    "собака dog, щенок",
    "ｄｏｇ full width, so\u00adft hyphen dog",
    "…",
]
NAMES = ["St. Bernard", "AC/DC", "bus-stop", "bus", "buses", "dog", "dogs", "new york new york", "s", "cafe", "33"]
NAMES += ["rock 'n' roll", "4x4", "snake_case", "zebra", "zebra dog", "in"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions of the demo and odd ones, of which some come from two sources, in two writes."""
    folder, draw = tmp_path_factory.mktemp("postings") / "index", np.random.default_rng(0)
    pages = [[caption(concept, "both", draw) for concept in concepts()[:80] for _ in range(8)], ODD * 2]
    with create_store(folder, schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        for texts in pages:
            store.upsert(batch(texts, "web"))
            store.upsert(batch(texts[::3], "coco"))
        store.optimise()
    return folder


@pytest.fixture(scope="module")
def store(index: Path) -> Iterator[Store]:
    with open_store(index) as store:
        yield store


def batch(texts: list[str], source: str) -> pa.RecordBatch:
    texts = list(dict.fromkeys(texts))
    vectors = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIM) for text in texts]
    return pa.record_batch(
        {
            "id": [caption_id(source, text) for text in texts],
            "text": texts,
            "source": [source] * len(texts),
            "vector": pa.array(vectors, pa.list_(pa.float32())),
        }
    )


def both(store: Store, phrases: list[list[str]], texts: list[str], mode: str, limit: int) -> list[list[list[Hit]]]:
    vectors = np.random.default_rng(1).standard_normal((len(texts), DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    postings = store.postings()
    assert postings is not None
    engine = store.search(texts=texts, vectors=vectors, holding=phrases, mode=mode, limit=limit)  # type: ignore[arg-type]
    ours = [
        list(
            postings.search(
                held, text=text if mode != "dense" else None, vector=vector if mode != "lexical" else None, limit=limit
            )
        )
        for held, text, vector in zip(phrases, texts, vectors, strict=True)
    ]
    return [engine, ours]


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("limit", [1, 3, 50, 1000])
def test_postings_rank_the_same_captions_in_the_same_order_as_the_engine(store: Store, mode: str, limit: int):
    names = [*NAMES, *sorted({concept.name for concept in concepts()[:80]})]
    phrases = [[" ".join(words_of(name))] for name in names]
    engine, ours = both(store, phrases, names, mode, limit)
    assert [[(hit.id, hit.text, hit.source) for hit in hits] for hits in ours] == [
        [(hit.id, hit.text, hit.source) for hit in hits] for hits in engine
    ]
    scores = [[hit.score for hits in found for hit in hits] for found in (engine, ours)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    assert sum(map(len, ours)) > len(names) / 2


def test_vowel_signs_cut_words_but_lose_no_caption(tmp_path: Path):
    with create_store(tmp_path / "index", schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        store.upsert(batch(["हिन्दी में कुत्ता dog", "a dog", "the dog by the sea"], "web"))
        store.optimise()
        engine, ours = both(store, [["dog"]], ["dog"], "hybrid", 9)
    assert {hit.id for hit in ours[0]} == {hit.id for hit in engine[0]}


def test_a_caption_may_hold_any_of_several_phrases(store: Store):
    phrases = [["ac dc", "st bernard", "zebra"], ["cafe", "cafe"]]
    engine, ours = both(store, phrases, ["AC/DC", "cafe"], "hybrid", 100)
    assert [[hit.id for hit in hits] for hits in ours] == [[hit.id for hit in hits] for hits in engine]
    assert {hit.text for hit in ours[0]} >= {"Bernard St. in town", "an AC unit, a DC motor"}


def test_optimising_an_index_again_leaves_its_postings(index: Path, tmp_path: Path):
    with copied(index, tmp_path) as store:
        before = (tmp_path / "index/postings/postings.json").stat().st_mtime_ns
        store.optimise()
        assert (tmp_path / "index/postings/postings.json").stat().st_mtime_ns == before


def test_added_captions_remove_the_postings_until_the_index_is_optimised(index: Path, tmp_path: Path):
    reports: list[ProgressEvent] = []
    with copied(index, tmp_path) as store:
        count = store.count()
        assert store.postings() is not None
        store.upsert(batch(["a yeti in the snow"], "web"))
        assert (store.postings(), (tmp_path / "index/postings").exists()) == (None, False)
        store.optimise(reports.append)
        assert reports[-1] == ProgressEvent("postings", count + 1, count + 1, "captions")
        postings = store.postings()
        assert postings is not None
        assert [hit.text for hit in postings.search(["yeti"], text="yeti", vector=None, limit=9)] == [
            "a yeti in the snow"
        ]


@pytest.mark.parametrize("file", ["rows.npy", "texts.utf8", "words.npy"])
def test_damaged_postings_are_not_used_and_written_again(index: Path, tmp_path: Path, file: str):
    with copied(index, tmp_path) as store:
        content = bytearray((tmp_path / "index/postings" / file).read_bytes())
        content[-1] ^= 1
        (tmp_path / "index/postings" / file).write_bytes(content)
        assert store.postings() is None
        store.optimise()
        assert store.postings() is not None


@pytest.mark.parametrize("change", [{"count": 3}, {"key": "other"}, {"version": 0}, {"files": None}, {"words": "?"}])
def test_postings_of_another_index_are_not_used(index: Path, tmp_path: Path, change: dict[str, object]):
    with copied(index, tmp_path) as store:
        facts = tmp_path / "index/postings/postings.json"
        facts.write_text(json.dumps(json.loads(facts.read_text()) | change))
        assert store.postings() is None


def test_postings_with_another_vector_than_the_engine_are_not_used(index: Path, tmp_path: Path):
    with copied(index, tmp_path) as store:
        vectors = np.load(tmp_path / "index/postings/vectors.npy", mmap_mode="r+")
        vectors[:] = vectors[::-1].copy()
        vectors.flush()
        assert store.postings() is None


def test_an_interrupted_writing_leaves_nothing(index: Path, tmp_path: Path):
    def interrupt(progress: ProgressEvent) -> None:
        if progress.stage == "postings":
            raise KeyboardInterrupt

    with copied(index, tmp_path) as store:
        store.upsert(batch(["a yeti in the snow"], "web"))
        with pytest.raises(KeyboardInterrupt):
            store.optimise(interrupt)
        assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["card.json", "lock", "shard"]
        store.optimise()
        assert store.postings() is not None


def test_captions_without_words_have_postings(tmp_path: Path):
    with create_store(tmp_path / "index", schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        store.upsert(batch(["…", "?"], "web"))
        store.optimise()
        postings = store.postings()
        assert postings is not None
        assert list(postings.search(["fox"], text="fox", vector=None, limit=9)) == []


def copied(index: Path, target: Path) -> Store:
    copy_folder(index, target / "index")
    return open_store(target / "index")
