from __future__ import annotations

from importlib.resources import files

import pytest

from rag_clip.store import CollectionSchema, load_schema
from rag_clip.store.schema import VectorSchema

SHIPPED = files("rag_clip.index").joinpath("captions.toml").read_text()


def test_the_shipped_schema_is_the_default():
    schema = load_schema()
    assert schema == CollectionSchema(payload=schema.payload)
    assert (schema.name, schema.server.shards, schema.schema_version) == ("captions", 1, 2)
    assert schema.filterable == ("source",)


def test_a_schema_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SHIPPED.replace('"captions"', '"mine"').replace("m = 16", "m = 32"))
    schema = load_schema(path)
    assert (schema.name, schema.hnsw.m) == ("mine", 32)


@pytest.mark.parametrize(
    ("found", "replacement", "message"),
    [
        ("m = 16", "mm = 16", "unknown key hnsw.mm"),
        ("shards = 1", "shard = 1", "unknown key server.shard"),
        ("shards = 1", "shards = 0", r"server.shards: Input should be greater than or equal to 1 \(found 0\)"),
        ("write_consistency = 1", "write_consistency = 2", "write_consistency is above server.replication_factor"),
        ('"cosine"', '"hamming"', r"vectors.0.distance: .*\(found 'hamming'\)"),
        ("[hnsw]", '[[vectors]]\nname = "text"\n[hnsw]', "vectors text, text share a name"),
        ("[[vectors]]", 'default = "image"\n[[vectors]]', "default is 'image'; the vectors are text"),
        ("[payload.source]", "[payload.vector]", "payload field vector has the name of a column of its own"),
        ('name = "captions"', 'name = "a/b"', "name: "),
        ('kind = "keyword"', 'kind = "colour"', "payload.source: "),
        ("schema_version = 2", "schema_version = 1", "schema_version is 1; this release reads 2"),
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
