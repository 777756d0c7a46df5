from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from rag_clip.pipelines.images import load_image_schema
from rag_clip.store import CollectionSchema, load_schema
from rag_clip.store.schema import QuantizationSchema, VectorSchema, check_where, plan_memory

SHIPPED = files("rag_clip.index").joinpath("captions.toml").read_text()


def test_the_shipped_schema_is_the_default():
    schema = load_schema()
    assert schema == CollectionSchema()
    assert (schema.name, schema.server.shards, schema.schema_version) == ("captions", 1, 3)
    assert schema.filterable == ("source",)


def test_a_schema_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.replace('"captions"', '"mine"').replace("m = 16", "m = 32"))
    schema = load_schema(path)
    assert (schema.name, schema.hnsw.m) == ("mine", 32)


@pytest.mark.parametrize(
    ("found", "replacement", "message"),
    [
        ("m = 16", "mm = 16", r"unknown key 'hnsw.mm'; did you mean m\? known are m, ef_construct, "),
        ("shards = 1", "shard = 1", r"unknown key 'server.shard'; did you mean shards\? known are "),
        ("shards = 1", "shards = 0", "server.shards is 0; give a number of at least 1"),
        ("write_consistency = 1", "write_consistency = 2", "write_consistency is above server.replication_factor"),
        ('"cosine"', '"hamming"', r"wrong.toml: vectors.0.distance is 'hamming'; give 'cosine' or 'dot'$"),
        ("[hnsw]", '[[vectors]]\nname = "text"\n[hnsw]', "vectors text, text share a name"),
        ("[[vectors]]", 'default = "image"\n[[vectors]]', "default is 'image'; the vectors are text"),
        ("[payload.source]", "[payload.vector]", "payload field vector has the name of a column of its own"),
        ('name = "captions"', 'name = "a/b"', "name is 'a/b'; give a text that matches "),
        (
            'kind = "keyword"',
            'kind = "colour"',
            "payload.source is {'kind': 'colour'}; give 'text', 'keyword', ",
        ),
        ("schema_version = 3", "schema_version = 1", "schema_version is 1; this release reads 2 and 3"),
        ("[payload.text]", "[payload.words]", "payload.text must be a text index"),
        ("shards = 1", "shards = ", "is not valid TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, found, replacement, message):
    path = tmp_path / "wrong.toml"
    path.write_text(SHIPPED.replace(found, replacement))
    with pytest.raises(ValueError, match=message) as error:
        load_schema(path)
    assert "wrong.toml" in str(error.value)


def test_the_vector_to_search_is_the_one_named_the_default_or_the_only_one():
    text, image = VectorSchema(name="text"), VectorSchema(name="image")
    alone, both = load_schema(), load_schema().model_copy(update={"vectors": (text, image)})
    assert (alone.pick_vector(None), both.pick_vector("image")) == ("text", "image")
    assert both.model_copy(update={"default": "image"}).pick_vector(None) == "image"
    assert (alone.columns, both.columns) == (
        {"text": "vector"},
        {"text": "vector_text", "image": "vector_image"},
    )
    with pytest.raises(ValueError, match="no vector 'sound'; name one of text, image"):
        both.pick_vector("sound")
    with pytest.raises(ValueError, match="several vectors and no default; name one of text, image"):
        both.pick_vector(None)


MILLION = 10**6


def plan(count: int = MILLION, kind: str = "int8", **vector: Any) -> dict[str, int]:
    changes = {"quantization": QuantizationSchema.model_validate({"kind": kind}), "vectors": (VectorSchema(**vector),)}
    return plan_memory(load_schema().model_copy(update=changes), 512, count)


@pytest.mark.parametrize(
    ("kind", "vector", "vectors", "quantized", "resident_without_graph"),
    [
        ("none", {}, 2048, 0, 2048),
        ("none", {"datatype": "float16"}, 1024, 0, 1024),
        ("none", {"on_disk": True}, 2048, 0, 0),
        ("int8", {}, 2048, 520, 520),
        ("turbo4", {}, 2048, 264, 264),
    ],
)
def test_a_million_rows_take_a_million_times_the_bytes_of_one(kind, vector, vectors, quantized, resident_without_graph):
    found = plan(kind=kind, **vector)
    assert (found["vectors"], found["quantized"]) == (vectors * MILLION, quantized * MILLION)
    assert found["resident"] - found["graph"] == resident_without_graph * MILLION
    assert found["graph"] == int(MILLION * 4 * (32 + 16 / 15))


def test_a_small_collection_has_no_graph_and_no_copies():
    assert plan(1000) == {"vectors": 2_048_000, "quantized": 0, "graph": 0, "resident": 2_048_000}


def test_every_named_vector_counts():
    both = load_schema().model_copy(update={"vectors": (VectorSchema(), VectorSchema(name="image"))})
    found = plan_memory(both, 512, MILLION)
    assert {name: size / plan()[name] for name, size in found.items()} == pytest.approx(dict.fromkeys(found, 2))


SCHEMA = load_image_schema()


def test_noise_is_filtered_by_a_range_open_at_either_end():
    for bounds in ((None, 0.5), (0.5, None), (0.25, 0.75), (0, 1), (0.5, 0.5)):
        assert check_where({"noise": bounds, "source": "web"}, SCHEMA) == {"noise": bounds, "source": ["web"]}
    assert check_where({"noise": [None, 0.5]}, SCHEMA) == {"noise": (None, 0.5)}  # type: ignore[list-item]


@pytest.mark.parametrize(
    "value", [0.5, 1, True, None, "0.5", (0.5,), (0, 0.5, 1), ("0", "1"), (0, float("nan"))], ids=str
)
def test_what_is_no_range_of_numbers_is_refused(value: object):
    with pytest.raises(ValueError, match=r"noise is a number; filter by \(least, greatest\), either None for no bound"):
        check_where({"noise": value}, SCHEMA)  # type: ignore[dict-item]


def test_a_range_that_holds_no_number_is_refused():
    with pytest.raises(ValueError, match=r"at least 0.9 and at most 0.1, which no number is; swap them"):
        check_where({"noise": (0.9, 0.1)}, SCHEMA)


@pytest.mark.parametrize("value", [0.5, None, [1], (0, 1)], ids=str)
def test_what_is_no_text_of_a_keyword_is_refused(value: object):
    with pytest.raises(ValueError, match="source is a keyword; filter by a text or several"):
        check_where({"source": value}, SCHEMA)  # type: ignore[dict-item]
