"""One contract, run against the embedded engine, the in-memory client and, where QDRANT_URL is set, a real server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from inputs.number_checks import near
from inputs.stores import CAPTIONS, DIM, ENGINES, IDS, PAIRED, batch, opened, paired_batch
from rag_clip.data import Hit
from rag_clip.store import Hybrid, Store, caption_id, load_schema

pytestmark = pytest.mark.filterwarnings(
    "ignore:Payload indexes have no effect:UserWarning",
    "ignore:Local mode performs exact:UserWarning",
)


@pytest.fixture(params=ENGINES)
def empty(request, tmp_path) -> Iterator[Store]:
    with opened(request.param, tmp_path, load_schema()) as store:
        yield store


@pytest.fixture(params=ENGINES, scope="module")
def store(request, tmp_path_factory) -> Iterator[Store]:
    """The six captions; shared, since no test of this file changes them."""
    with opened(request.param, tmp_path_factory.mktemp("store"), load_schema()) as store:
        store.upsert(batch())
        yield store


@pytest.fixture(params=ENGINES, scope="module")
def paired(request, tmp_path_factory) -> Iterator[Store]:
    """The six captions with an image vector and a payload each; shared and not changed."""
    with opened(request.param, tmp_path_factory.mktemp("store"), PAIRED) as store:
        store.upsert(paired_batch())
        yield store


def texts(hits: list[Hit]) -> list[tuple[str, str]]:
    return [(hit.source, hit.text) for hit in hits]


def test_dense_search_returns_cosines_best_first(store):
    query = np.array([[2.0, 0, 0, 0], [0, 0, 0, 0.5]], np.float32)
    first, second = store.search(vectors=query, limit=4)
    assert [(hit.text, round(hit.score, 5)) for hit in first] == [
        ("a red kite over the sea", 1.0),
        ("a red flag", 0.8),
        ("a red flag", 0.8),
        ("a bird called kite, a kite", 0.6),
    ]
    assert second[0] == Hit(IDS[4], "a photo of a dog", near(0.8), "coco")


@pytest.mark.parametrize("index", ["auto", "exact", "hnsw"])
def test_every_use_of_the_index_finds_the_nearest_caption(store, index):
    [hits] = store.search(vectors=np.array([[0, 1, 0, 0]], np.float32), limit=1, index=index)
    assert texts(hits) == [("web", "a blue flag")]


def test_equal_scores_come_in_the_order_of_ids_even_across_the_limit(store):
    twins = sorted([IDS[1], IDS[5]])
    [hits] = store.search(vectors=np.array([[0.8, 0.6, 0, 0]], np.float32), limit=1)
    assert [hit.id for hit in hits] == twins[:1]
    [hits] = store.search(texts=["flag red"], limit=1, mode="lexical")
    assert [hit.id for hit in hits] == twins[:1]


def test_lexical_search_matches_any_word_and_rare_words_rank_first(store):
    [hits] = store.search(texts=["Dog, or FLAG?"], mode="lexical")
    assert [hit.id for hit in hits] == [IDS[4], *sorted([IDS[1], IDS[2], IDS[5]])]


def test_lexical_scores_are_bm25(store):
    documents = [text.replace(",", "").split() for _source, text, _vector in CAPTIONS]
    length = store.card.schema.lexical.average_length
    document = documents[3]
    frequency = document.count("kite")
    holding = sum("kite" in words for words in documents)
    rarity = np.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
    expected = rarity * frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * len(document) / length))
    [hits] = store.search(texts=["kite"], limit=1, mode="lexical")
    assert hits == [Hit(IDS[3], CAPTIONS[3][1], near(expected, rel=1e-5), "coco")]


@pytest.mark.parametrize("text", ["", "...", "zebra"])
def test_a_text_without_known_words_finds_nothing(store, text):
    assert store.search(texts=[text], mode="lexical") == [[]]


def test_hybrid_search_fuses_reciprocal_ranks_with_weights(store):
    query = {"texts": ["dog"], "vectors": np.array([[1, 0, 0, 0]], np.float32), "limit": 2}
    [dense_first] = store.search(**query, mode=Hybrid(3, 1))
    [lexical_only] = store.search(**query, mode=Hybrid(0, 2))
    dog_in_dense = [hit.text for hit in store.search(vectors=query["vectors"])[0]].index("a photo of a dog") + 1
    assert [(hit.text, hit.score) for hit in dense_first] == [
        ("a photo of a dog", pytest.approx(3 / (60 + dog_in_dense) + 1 / 61)),
        ("a red kite over the sea", pytest.approx(3 / 61)),
    ]
    assert [(hit.text, hit.score) for hit in lexical_only] == [("a photo of a dog", pytest.approx(2 / 61))]


@pytest.mark.parametrize("where", [{"source": "coco"}, {"source": ["coco", "absent"]}])
def test_where_keeps_only_captions_of_the_source(store, where):
    query = np.array([[0.8, 0.6, 0, 0]], np.float32)
    [dense] = store.search(vectors=query, where=where)
    [lexical] = store.search(texts=["red kite dog"], where=where, mode="lexical")
    assert {hit.source for hit in dense + lexical} == {"coco"}
    assert (len(dense), len(lexical)) == (3, 3)


def test_many_queries_are_answered_in_their_order(store):
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((150, DIM)).astype(np.float32)
    matrix = np.array([vector for _source, _text, vector in CAPTIONS])
    expected = [CAPTIONS[row][1] for row in (queries @ matrix.T).argmax(1)]
    assert [hits[0].text for hits in store.search(vectors=queries, limit=1)] == expected


def test_adding_twice_adds_nothing(store):
    store.upsert(batch())
    assert store.count() == len(CAPTIONS)


def test_fetch_keeps_the_order_asked_for_and_skips_unknown_ids(store):
    wanted = [IDS[4], caption_id("web", "never stored"), IDS[0]]
    assert store.fetch(wanted) == [
        Hit(IDS[4], "a photo of a dog", 0.0, "coco"),
        Hit(IDS[0], "a red kite over the sea", 0.0, "web"),
    ]


def test_scroll_goes_through_everything_in_the_order_of_ids(store):
    pages = list(store.scroll(batch_size=4, vectors=True))
    assert [page.num_rows for page in pages] == [4, 2]
    rows = [row for page in pages for row in page.to_pylist()]
    stored = {row["id"]: row for row in batch().to_pylist()}
    assert [row["id"] for row in rows] == sorted(IDS)
    assert all(row | {"vector": 0} == stored[row["id"]] | {"vector": 0} for row in rows)
    assert all(row["vector"] == pytest.approx(stored[row["id"]]["vector"]) for row in rows)


def test_scroll_starts_at_an_id_and_can_leave_vectors_out(store):
    [page] = store.scroll(start=sorted(IDS)[2])
    assert page.column("id").to_pylist() == sorted(IDS)[2:]
    assert page.schema.names == ["id", "text", "source"]


def test_what_scroll_yields_can_be_added_again(store):
    for page in store.scroll(vectors=True):
        store.upsert(page)
    assert store.count() == len(CAPTIONS)


def test_a_sample_is_a_run_of_ids_that_wraps_round_and_repeats_with_its_seed(store):
    order = sorted(IDS)
    for seed in range(6):
        sample = [hit.id for hit in store.sample(4, seed)]
        first = order.index(sample[0])
        assert sample == [order[(first + step) % len(order)] for step in range(4)]
        assert sample == [hit.id for hit in store.sample(4, seed)]
    assert len({store.sample(1, seed)[0].id for seed in range(30)}) > 2


def test_a_sample_larger_than_the_store_is_the_whole_store(store):
    assert sorted(hit.id for hit in store.sample(100, 0)) == sorted(IDS)


def test_an_empty_store_finds_nothing(empty):
    assert empty.count() == 0
    assert empty.search(vectors=np.ones((1, DIM), np.float32)) == [[]]
    assert empty.search(texts=["red"], mode="lexical") == [[]]
    assert list(empty.scroll()) == []
    assert empty.sample(3, 0) == []
    assert empty.fetch([]) == []


def test_the_count_follows_every_write(empty):
    assert empty.count() == 0
    empty.upsert(batch(CAPTIONS[:2]))
    assert (empty.count(), empty.count()) == (2, 2)
    empty.upsert(batch(CAPTIONS[1:3]))
    assert empty.count() == 3


def test_info_tells_counts_and_the_card(store):
    store.optimise()
    info = store.info()
    assert (info["count"], info["location"], info["card"]["dim"]) == (6, store.location, DIM)
    assert info["card"]["encoder"] == {
        "model": "toy",
        "pretrained": "",
        "weights": "weights-1",
        "preprocessing": "8x8",
        "precision": "fp32",
        "activation": "",
        "spec": "",
        "resampler": "",
        "of_images": "",
    }
    assert (info["status"], info["check"], info["memory"]["resident"]) == ("ready", None, 6 * DIM * 4)


def test_a_note_is_kept_in_the_card_with_its_date(empty):
    empty.note("funnel", {"rows": 10, "kept": 6})
    empty.note("other", {"rows": 1})
    empty.note("funnel", {"rows": 12, "kept": 6})
    notes = empty.info()["card"]["notes"]
    assert {name: {**note, "date": ""} for name, note in notes.items()} == {
        "funnel": {"rows": 12, "kept": 6, "date": ""},
        "other": {"rows": 1, "date": ""},
    }
    assert empty.card.notes == notes
    assert empty.info()["status"] == "empty"


def test_everything_is_found_again_after_optimising(store):
    store.optimise()
    [hits] = store.search(texts=["dog"], mode="lexical")
    assert texts(hits) == [("coco", "a photo of a dog")]
    assert store.count() == len(CAPTIONS)


@pytest.mark.parametrize("bad", [[np.nan, 0, 0, 1], [np.inf, 0, 0, 1], [0, 0, 0, 0], [1, 2, 3]])
def test_a_bad_vector_is_refused_with_its_id_and_nothing_is_stored(store, bad):
    rows = [("web", "good", [1, 2, 3, 4]), ("web", "bad", bad)]
    with pytest.raises(ValueError, match=caption_id("web", "bad")):
        store.upsert(batch(rows))
    assert store.count() == len(CAPTIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "dense"}, "dense search needs vectors"),
        ({"mode": "lexical"}, "lexical search needs texts"),
        ({"mode": "fuzzy"}, "unknown search mode 'fuzzy'"),
        ({"vectors": np.ones((1, 3))}, r"\[1, 3\] do not fit an index of width 4"),
        ({"vectors": np.full((1, 4), np.nan)}, "query 0: NaN"),
        ({"vectors": np.ones((1, 4)), "index": "fast"}, "unknown index use 'fast'"),
        ({"vectors": np.ones((1, 4)), "limit": 0}, "limit is 0"),
        (
            {"vectors": np.ones((1, 4)), "where": {"colour": "red"}},
            "cannot filter by colour; the indexed fields are source",
        ),
        ({"vectors": np.ones((2, 4)), "texts": ["one"], "mode": "hybrid"}, "1 text for 2 vectors"),
    ],
)
def test_a_wrong_search_says_what_is_wrong(store, arguments, message):
    with pytest.raises(ValueError, match=message):
        store.search(**arguments)


@pytest.mark.parametrize("weights", [(-1, 1), (0, 0)])
def test_wrong_weights_of_hybrid_search_are_refused(weights):
    with pytest.raises(ValueError, match="give none below zero, and one above"):
        Hybrid(*weights)


def test_a_search_compares_with_the_vector_named_or_the_default(paired):
    query = np.array([[0, 1, 0, 0]], np.float32)
    for vector, nearest in ((None, IDS[2]), ("text", IDS[2]), ("image", IDS[1])):
        [hits] = paired.search(vectors=query, limit=1, vector=vector)
        assert [hit.id for hit in hits] == [nearest]
    [hits] = paired.search(texts=["dog"], vectors=query, mode=Hybrid(0, 1), vector="image")
    assert [hit.id for hit in hits] == [IDS[4]]
    with pytest.raises(ValueError, match="no vector 'sound'; name one of image, text"):
        paired.search(vectors=query, vector="sound")


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({"noise": (None, 0.5)}, [0, 1, 2]),
        ({"noise": (0.25, None)}, [1, 2, 3]),
        ({"noise": (None, None)}, [0, 1, 2, 3]),
        ({"width": (300, 640)}, [0, 1]),
        ({"licence": "by", "noise": (0.5, 1)}, [3]),
        ({"licence": ["cc0", "by"], "source": "coco"}, [3, 5]),
    ],
)
def test_where_takes_values_of_keywords_and_ranges_of_numbers(paired, where, found):
    [dense] = paired.search(vectors=np.ones((1, DIM), np.float32), where=where)
    [lexical] = paired.search(texts=["a"], mode="lexical", where=where)
    assert sorted(hit.id for hit in dense) == sorted(hit.id for hit in lexical) == sorted(IDS[row] for row in found)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"title": "Kite"}, "cannot filter by title; the indexed fields are licence, noise, source, width"),
        ({"noise": "low"}, r"noise is a number; filter by \(least, greatest\)"),
        ({"licence": (0, 1)}, "licence is a keyword; filter by a text or several"),
    ],
)
def test_a_condition_that_does_not_fit_its_field_is_refused(paired, where, message):
    with pytest.raises(ValueError, match=message):
        paired.search(vectors=np.ones((1, DIM)), where=where)


def test_scroll_returns_the_payload_and_every_vector_as_they_were_added(paired):
    [page] = paired.scroll(vectors=True, payload=True)
    added = {row["id"]: row for row in paired_batch().to_pylist()}
    assert [row["id"] for row in page.to_pylist()] == sorted(added)
    for row in page.to_pylist():
        for name in ("vector_text", "vector_image"):
            assert row.pop(name) == pytest.approx(added[row["id"]].pop(name))
        assert row == added[row["id"]]
    assert [page.schema.names for page in paired.scroll()] == [["id", "text", "source"]]


def test_a_batch_without_one_of_the_vectors_is_refused(paired):
    with pytest.raises(ValueError, match="the batch lacks vector_image; found columns"):
        paired.upsert(paired_batch().drop_columns("vector_image"))


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_captions_can_be_asked_for_that_hold_a_phrase(store, mode):
    asked = {"vectors": np.array([[1, 0, 0, 0]] * 4, np.float32), "texts": ["red kite"] * 4, "mode": mode}
    found = store.search(**asked, holding=[["red"], ["blue", "kite"], ["heron"], []])
    everything = store.search(**asked)
    assert [sorted(hit.text for hit in hits) for hits in found[:3]] == [
        ["a red flag", "a red flag", "a red kite over the sea"],
        sorted(hit.text for hit in everything[0] if "blue" in hit.text or "kite" in hit.text),
        [],
    ]
    assert found[3] == everything[3]
    assert store.search(**asked, holding=[["red"]] * 4, where={"source": "coco"})[0][0].id == IDS[5]


def test_phrases_for_other_queries_are_refused(store):
    with pytest.raises(ValueError, match="`holding` has phrases for 1 of 2 queries; give some for each"):
        store.search(texts=["red", "kite"], mode="lexical", holding=[["red"]])
