from __future__ import annotations

from importlib.resources import files

import pytest

from rag_clip.store import CollectionSchema, load_schema

SHIPPED = files("rag_clip.index").joinpath("captions.toml").read_text()


def test_the_shipped_schema_is_the_default():
    schema = load_schema()
    assert schema == CollectionSchema(payload=schema.payload)
    assert (schema.name, schema.shards, schema.schema_version) == ("captions", 1, 1)
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
        ("shards = 1", "shard = 1", "unknown key shard"),
        ("shards = 1", "shards = 0", r"shards: Input should be greater than or equal to 1 \(found 0\)"),
        ('"cosine"', '"hamming"', r"vector.distance: .*\(found 'hamming'\)"),
        ('name = "captions"', 'name = "a/b"', "name: "),
        ('kind = "keyword"', 'kind = "colour"', "payload.source: "),
        ("schema_version = 1", "schema_version = 2", "schema_version is 2; this release reads 1"),
        ("[payload.text]", "[payload.words]", "payload.text must be a text index"),
        ("shards = 1", "shards = ", "is not TOML"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path, found, replacement, message):
    path = tmp_path / "wrong.toml"
    path.write_text(SHIPPED.replace(found, replacement))
    with pytest.raises(ValueError, match=message) as error:
        load_schema(path)
    assert "wrong.toml" in str(error.value)
