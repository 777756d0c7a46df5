"""A flipped byte in a file of our own is found, wherever it lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rag_clip.data import LabelSet
from rag_clip.files.features import FeatureRows, feature_cache
from rag_clip.files.learned_prompts import LearnedPrompts, read_learned_prompts, write_learned_prompts
from rag_clip.files.sealed import checksum, file_checksum, read_sealed, write_sealed

TABLE = pa.table(
    {
        "name": pa.array(["a", None, "b\0c"]),
        "image": pa.array([b"1", b"", None], pa.binary()),
        "vector": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "number": pa.array([1, 2, None], pa.int32()),
    },
    metadata={"facts": "{}"},
)


def flips(path: Path, step: int) -> Iterator[int]:
    """Flip one bit of the file at a time; yield where."""
    whole = path.read_bytes()
    for place in range(0, len(whole), step):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        yield place
    path.write_bytes(whole)


def test_a_table_comes_back_as_it_was_written_whole_or_some_columns(tmp_path: Path) -> None:
    write_sealed(TABLE, tmp_path / "t.parquet", compression="zstd")
    read = read_sealed(tmp_path / "t.parquet")
    assert read.equals(TABLE)
    assert read.schema.metadata == TABLE.schema.metadata
    assert read_sealed(tmp_path / "t.parquet", ["number", "name"]).equals(TABLE.select(["number", "name"]))
    with pytest.raises(ValueError, match="has no column 'key'; it has name, image, vector, number"):
        read_sealed(tmp_path / "t.parquet", ["key"])


def test_the_checksum_tells_values_nulls_names_types_and_metadata_apart() -> None:
    others = [
        TABLE.slice(0, 2),
        TABLE.replace_schema_metadata({"facts": "[]"}),
        TABLE.rename_columns(["name", "picture", "vector", "number"]),
        TABLE.set_column(3, "number", TABLE["number"].cast(pa.int64())),
        TABLE.set_column(3, "number", pa.array([1, None, 2], pa.int32())),
        TABLE.set_column(0, "name", pa.array(["a", "b", "\0c"])),
        TABLE.set_column(2, "vector", pa.array([[1.0, 2.0], None, [3.0, 5.0]], pa.list_(pa.float32(), 2))),
    ]
    assert len({checksum(table) for table in [TABLE, *others]}) == 8
    assert checksum(pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])) == checksum(TABLE)


def test_a_file_of_an_earlier_version_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "t.parquet")
    assert read_sealed(tmp_path / "t.parquet").equals(TABLE)
    assert file_checksum(tmp_path / "t.parquet") != file_checksum(Path(__file__))


def test_no_flip_in_a_table_passes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_sealed(TABLE, path)
    assert read_sealed(path).equals(TABLE)
    for place in flips(path, 3):
        try:
            table = read_sealed(path)
        except (ValueError, OSError):
            continue
        assert table.to_pylist() == TABLE.to_pylist(), place


def test_a_shard_of_features_with_a_flip_is_missing_or_as_it_was(tmp_path: Path) -> None:
    cache = feature_cache(tmp_path, rows=4, dim=3, shard_rows=4)
    written = FeatureRows(np.arange(12, dtype=np.float32).reshape(4, 3), (None, None, None, "broken"))
    written.pooled[3] = 0
    cache.write(0, written)
    assert cache.missing() == []
    found = 0
    for place in flips(tmp_path / "00000.parquet", 3):
        if cache.missing():
            found += 1
            with pytest.raises(OSError, match=r"features in .*00000\.parquet cannot be read"):
                cache.read(0)
        else:
            features = cache.read(0)
            assert (features.pooled.tolist(), features.errors) == (written.pooled.tolist(), written.errors), place
    assert found > 100
    assert cache.missing() == []


def test_learned_prompts_with_a_flip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.safetensors"
    weights = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=1)
    written = LearnedPrompts(LabelSet(("cat", "dog")), weights, torch.ones(2, 3), provenance={"encoder": {}})
    write_learned_prompts(written, path)
    for place in flips(path, 1):
        try:
            prompts = read_learned_prompts(path)
        except ValueError:
            continue
        assert prompts.weights.equal(weights), place
        assert prompts.context.equal(written.context), place
        assert prompts.labels == written.labels, place
