"""BM25 as sparse vectors: numbers by hand, ties, Chinese and Japanese, and engines that agree."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from inputs.stores import DIM, ENGINES, batch, opened
from rag_clip.store import CollectionSchema, caption_id, load_schema
from rag_clip.store.lexical import Lexical, level
from rag_clip.store.schema import LexicalSchema, TextIndex

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")
WORDS = "red blue old new kite flag dog cat sea sky on by with of two a the 3 4x4 straße".split()  # noqa: SIM905


def multilingual() -> CollectionSchema:
    schema = load_schema()
    return schema.model_copy(
        update={"payload": schema.payload | {"text": TextIndex(kind="text", tokenizer="multilingual")}}
    )


def test_a_document_has_the_factor_of_bm25_for_each_word():
    schema = load_schema().model_copy(update={"lexical": LexicalSchema(k=1.5, b=0.5, average_length=8)})
    [(indices, values)] = Lexical(schema).documents(["Kite, a KITE"])
    norm = 1.5 * (0.5 + 0.5 * 3 / 8)
    assert sorted(values) == pytest.approx(sorted([2.5 * 2 / (2 + norm), 2.5 / (1 + norm)]))
    assert Lexical(schema).queries(["kite a kite"]) == [(indices, [1.0, 1.0])]


def test_a_text_without_words_has_no_vector():
    assert Lexical(load_schema()).documents(["", "..."]) == [([], []), ([], [])]


def test_scores_that_differ_by_rounding_tie_and_others_do_not():
    scores = np.array([1.0, 3.0, 3.0 - 1e-6, 2.0, 2.0 - 1e-3])
    assert level(scores).tolist() == [1.0, 3.0, 3.0, 2.0, 2.0 - 1e-3]
    assert level(np.empty(0)).tolist() == []


@pytest.mark.parametrize("engine", ENGINES)
def test_chinese_and_japanese_are_found_by_the_words_of_a_dictionary(engine, tmp_path):
    rows = [
        ("web", text, [1.0, 0, 0, 0]) for text in ("一只红色的风筝在海上", "一只黑猫", "赤い凧が海の上を飛ぶ", "a kite")
    ]
    with opened(engine, tmp_path, multilingual()) as store:
        store.upsert(batch(rows))
        found = store.search(texts=["风筝", "黑猫", "凧", "KITE"], mode="lexical", limit=1)
        held = store.search(texts=["红色"], mode="lexical", holding=[["风筝"]])
    assert [[hit.text for hit in hits] for hits in found] == [[text] for _source, text, _vector in rows]
    if engine not in ("memory", "oldest"):  # the text filter of the in-memory client knows no dictionary
        assert [hit.text for hit in held[0]] == [rows[0][1]]


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_an_engine_ranks_as_the_embedded_one_to_the_last_tie(engine, tmp_path):
    draw = random.Random(0)
    texts = sorted({" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(240)} | {"...", "!"})
    columns = {"id": [caption_id("web", text) for text in texts], "text": texts, "source": ["web"] * len(texts)}
    vectors = np.random.default_rng(0).standard_normal((len(texts), DIM)).astype(np.float32)
    rows = pa.record_batch(columns | {"vector": pa.array(list(vectors), pa.list_(pa.float32()))})
    queries = [" ".join(draw.choices(WORDS, k=draw.randint(1, 8))) for _ in range(60)]
    found = []
    for name in ("edge", engine):
        with opened(name, tmp_path / name, load_schema()) as store:
            store.upsert(rows)
            found.append(store.search(texts=queries, mode="lexical", limit=30))
    first, second = ([[hit.id for hit in hits] for hits in hits_of_all] for hits_of_all in found)
    assert first == second
    scores = [[[hit.score for hit in hits] for hits in hits_of_all] for hits_of_all in found]
    assert all(one == pytest.approx(other, rel=1e-5) for one, other in zip(*scores, strict=True))
    assert len({score for ranking in scores[0] for score in ranking}) < sum(map(len, scores[0]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("b = 0.75", "b = 2", "lexical.b"),
        ("average_length = 10.0", "average_length = 0", "lexical.average_length"),
        ('name = "text"', 'name = "bm25"', "bm25 is the vector that lexical search makes itself"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, old: str, new: str, message: str):
    text = (Path(__file__).parents[2] / "index/captions.toml").read_text()
    (tmp_path / "schema.toml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_schema(tmp_path / "schema.toml")


def test_a_schema_file_of_version_2_makes_an_index_of_version_3(tmp_path):
    text = (Path(__file__).parents[2] / "index/captions.toml").read_text()
    old = text.replace("schema_version = 3", "schema_version = 2").replace(
        "[lexical]\nk = 1.2\nb = 0.75\naverage_length = 10.0\n", ""
    )
    (tmp_path / "schema.toml").write_text(old)
    assert load_schema(tmp_path / "schema.toml") == load_schema()
