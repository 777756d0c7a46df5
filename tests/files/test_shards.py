"""The store of shards: each whole or absent, and those of version 0.1.0 are taken up."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_clip.captions.shards import read_manifests, read_shard
from rag_clip.data import Fingerprint
from rag_clip.evaluation.results import stored_run
from rag_clip.files.features import feature_cache
from rag_clip.files.identity import identify
from rag_clip.files.shards import RowShards, Shards
from rag_clip.images.pair_files import PairColumns, open_pair_files
from rag_clip.images.shards import open_shards

OLD = Path(__file__).parent.parent / "inputs" / "of_0_1_0"
TABLE = pa.table({"name": ["a", "b", "c"], "number": [1, 2, 3]})
ENCODER = Fingerprint(model="toy", pretrained="", weights="w", preprocessing="p")


def row_shards(folder: Path, *, rows: int = 10) -> RowShards:
    return RowShards(Shards(folder, "rows"), rows, 4, TABLE.schema, {"compression": "zstd"})


def test_a_shard_comes_back_with_its_manifest_and_in_columns(tmp_path: Path) -> None:
    shards, table = Shards(tmp_path / "new", "rows"), TABLE.replace_schema_metadata({"made of": "nothing"})
    shards.write("key", table, compression="zstd")
    assert shards.path("key") == tmp_path / "new" / "key.parquet"
    assert (shards.read("key"), shards.read("key").schema.metadata) == (table, {b"made of": b"nothing"})
    assert shards.read_columns("key", ["number"]).to_pydict() == {"number": [1, 2, 3]}


def test_a_shard_that_is_gone_or_damaged_is_named(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "rows")
    with pytest.raises(OSError, match=r"rows in .*key\.parquet cannot be read .*; run again"):
        shards.read("key")
    pq.write_table(TABLE.replace_schema_metadata({"rag_clip.checksum": "1"}), shards.path("key"))
    with pytest.raises(OSError, match=r"key\.parquet cannot be read .*its checksum differs.*; run again"):
        shards.read("key")


def test_rows_of_a_file_are_missing_until_they_are_stored_settled(tmp_path: Path) -> None:
    shards = row_shards(tmp_path)
    assert (list(shards.spans()), shards.missing()) == ([(0, 4), (4, 8), (8, 10)], [(0, 10)])
    shards.write(4, TABLE, rows=4)
    assert shards.missing() == [(0, 4), (8, 10)]
    shards.write(0, TABLE, rows=4, settled=False)
    shards.write(8, TABLE.slice(1))
    assert (shards.missing(), shards.read(0)["name"].to_pylist()) == ([(0, 4)], ["a", "b", "c"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.parquet", "00001.parquet", "00002.parquet"]


@pytest.mark.parametrize(
    "other",
    [
        TABLE.rename_columns(["name", "count"]).replace_schema_metadata({"rag_clip": '{"settled": true, "rows": 4}'}),
        TABLE.replace_schema_metadata({"rag_clip": '{"settled": true, "rows": 3}'}),
        TABLE.replace_schema_metadata({"rag_clip": '{"rows": 4}'}),
        TABLE.replace_schema_metadata({"rag_clip": "[]"}),
        TABLE,
    ],
    ids=["columns", "rows", "unsettled", "list", "none"],
)
def test_a_shard_made_of_something_else_is_missing(other: pa.Table, tmp_path: Path) -> None:
    shards = row_shards(tmp_path, rows=4)
    shards.store.write("00000", other)
    assert shards.missing() == [(0, 4)]


def test_a_described_shard_exists_with_its_manifest_and_is_read_in_batches(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "rows")
    written = shards.write_described("key", TABLE, {"about": "ä"}, row_group_size=2)
    assert shards.manifests(dict) == [written]
    assert [batch.num_rows for batch in shards.read_batches("key", written["content"], rows=2)] == [2, 1]
    with pytest.raises(OSError, match=r"its checksum differs.; delete key\.json beside it"):
        next(shards.read_batches("key", written["content"] + 1, rows=2))

    def refuse(manifest: dict[str, Any]) -> None:
        raise ValueError(f"no {manifest['about']}")

    with pytest.raises(ValueError, match=r"key\.json is not the manifest of a shard .no ä."):
        shards.manifests(refuse)


def test_sweeping_leaves_whole_shards_alone(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "rows")
    shards.write("key", TABLE)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".1.partial").write_text("half")
    (tmp_path / ".counts.partial" / "spill").mkdir(parents=True)
    shards.sweep()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "key.parquet"]


def test_features_of_0_1_0_are_taken_up(tmp_path: Path) -> None:
    shutil.copy(OLD / "features.parquet", tmp_path / "00000.parquet")
    cache = feature_cache(tmp_path, rows=12, dim=32)
    assert cache.missing() == []
    features = cache.read(0)
    assert [row for row, error in enumerate(features.errors) if error] == [4]
    np.testing.assert_allclose(np.linalg.norm(np.delete(features.pooled, 4, 0), axis=1), 1, atol=1e-6)
    assert feature_cache(tmp_path, rows=13, dim=32).missing() == [(0, 13)]


def test_pairs_of_0_1_0_are_taken_up_of_images_with_two_captions_each(tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"image": [b""] * 12, "caption": [["a", "b"]] * 12}), source)
    [file] = open_pair_files([source], columns=PairColumns())
    pairs = open_shards(tmp_path, file, encoder=ENCODER, dim=32, settings="{}")
    facts = json.dumps([str(source.resolve()), "in", *identify(source).state, "{}", 12, 1024])
    assert pairs.folder == tmp_path / ENCODER.key / hashlib.sha256(facts.encode()).hexdigest()[:16]
    pairs.folder.mkdir(parents=True)
    shutil.copy(OLD / "pairs.parquet", pairs.folder / "00000.parquet")
    assert (pairs.shards.missing(), pairs.count_pairs()) == ([], 24)
    [table] = pairs.read(["text", "error"])
    assert table["text"].to_pylist()[:3] == ["one red 0", "two 0", "one green 1"]
    assert [row for row, error in enumerate(table["error"].to_pylist()) if error] == [8, 9]


def test_captions_of_0_1_0_are_taken_up() -> None:
    [manifest] = read_manifests(OLD)
    assert (manifest.start, manifest.rows, manifest.kept, manifest.last) == (48, 2, 2, True)
    [batch] = read_shard(OLD, manifest, 256)
    assert batch.column("text").to_pylist() == ["a caption 48", "a caption 49"]
    vectors = batch.column("vector").flatten().to_numpy().reshape(2, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_run_of_0_1_0_is_taken_up(tmp_path: Path) -> None:
    runs = tmp_path / "r.parquet.runs"
    runs.mkdir()
    for path in OLD.glob("498d5ff29bf7df45*"):
        shutil.copy(path, runs)
    result = stored_run(tmp_path / "r.parquet", "498d5ff29bf7df45")
    assert result is not None
    assert (result.main.metric, len(result.measures)) == ("accuracy", 37)
    assert result.images is not None
    assert result.images["row"].to_pylist() == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    (runs / "498d5ff29bf7df45.parquet").write_bytes(b"PAR1")
    assert stored_run(tmp_path / "r.parquet", "498d5ff29bf7df45") is None
