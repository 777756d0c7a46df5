from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_clip.captions.ahead import ahead
from rag_clip.captions.shards import Manifest, read_manifests, read_shard, write_shard
from rag_clip.files.shards import Shards
from rag_clip.testing import ToyEncoder

FINGERPRINT = ToyEncoder().fingerprint


def manifest(key: str = "a" * 32, **facts) -> Manifest:
    given = {
        "url": "web.parquet", "identity": "1", "start": 0, "rows": 4, "last": True, "settings": "s", "cleaning": {},
        "encoder": FINGERPRINT, "dim": 8, "kept": 3, "repeated": 0, "dropped": {"null": 1}, "probes": ("p", "q"),
    }  # fmt: skip
    return Manifest(key=key, **{**given, **facts})


def captions(rows: int) -> pa.Table:
    return pa.table({"id": [f"{row}" for row in range(rows)], "text": ["t"] * rows, "source": ["s"] * rows})


def unit(rows: int, dim: int) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_shard_comes_back_as_float32_rows_of_unit_length(tmp_path):
    vectors = unit(1000, 512)
    written = manifest(dim=512, kept=1000)
    write_shard(tmp_path, written, captions(1000), vectors, captions(0))
    batches = list(read_shard(tmp_path, written, 256))
    assert [batch.num_rows for batch in batches] == [256, 256, 256, 232]
    back = np.concatenate([batch.column("vector").flatten().to_numpy().reshape(-1, 512) for batch in batches])
    assert back.dtype == np.float32
    assert np.abs(np.linalg.norm(back, axis=1) - 1).max() < 1e-6
    assert 1 - (back.astype(np.float64) * vectors).sum(1).min() < 2e-7
    assert pa.Table.from_batches(batches).drop_columns("vector").equals(captions(1000))


def test_manifests_come_back_in_the_order_of_files_and_rows(tmp_path):
    wanted = [
        manifest("c" * 32, url="a.parquet"),
        manifest("b" * 32, start=0, status="failed", reason="cut short"),
        manifest("a" * 32, start=4),
    ]
    written = {one.key: write_shard(tmp_path, one, captions(3), unit(3, 8), captions(0)) for one in reversed(wanted)}
    assert [replace(one, content=-1) for one in written.values()] == wanted[::-1]
    assert read_manifests(tmp_path) == [written[one.key] for one in wanted]


def test_an_empty_shard_is_written_and_read(tmp_path):
    empty = write_shard(tmp_path, manifest(kept=0, rows=0), captions(0), unit(0, 8), captions(0))
    assert list(read_shard(tmp_path, empty, 256)) == []
    assert read_manifests(tmp_path) == [empty]


def test_a_flipped_byte_in_a_shard_or_its_manifest_is_found(tmp_path):
    written = write_shard(tmp_path, manifest(), captions(3), unit(3, 8), captions(0))
    for path in (tmp_path / f"{written.key}.parquet", tmp_path / f"{written.key}.json"):
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            if path.suffix == ".parquet":
                with pytest.raises(OSError, match=r"cannot be read .its checksum differs.; delete .*\.json beside it"):
                    list(read_shard(tmp_path, written, 2))
            else:
                try:
                    read = read_manifests(tmp_path)
                except ValueError as error:
                    assert f"{path} is not the manifest of a shard" in str(error)  # noqa: PT017
                else:
                    assert read == [written]
        path.write_bytes(whole)


def test_dropped_rows_lie_beside_the_shards(tmp_path):
    write_shard(tmp_path, manifest(), captions(3), unit(3, 8), captions(2))
    assert pq.read_table(tmp_path / "dropped" / f"{'a' * 32}.parquet").equals(captions(2))


def test_what_a_killed_run_left_half_written_is_cleared(tmp_path):
    write_shard(tmp_path, manifest(), captions(3), unit(3, 8), captions(2))
    whole = sorted(tmp_path.rglob("*"))
    for path in (tmp_path / ".1.partial", tmp_path / "dropped/.2.partial"):
        path.write_text("half")
    (tmp_path / ".counts-1.2.partial/spill").mkdir(parents=True)
    Shards(tmp_path, "captions").sweep()
    assert sorted(tmp_path.rglob("*")) == whole


def test_a_manifest_of_another_layout_is_refused(tmp_path):
    write_shard(tmp_path, replace(manifest(), key="d"), captions(3), unit(3, 8), captions(0))
    path = Path(tmp_path / "d.json")
    path.write_text(path.read_text().replace('"kept"', '"held"'))
    with pytest.raises(ValueError, match=r"d\.json is not the manifest of a shard"):
        read_manifests(tmp_path)


def test_work_ahead_gives_items_in_order_and_passes_errors_on():
    def items():
        yield from range(5)
        raise ValueError("the sixth")

    with ahead(items()) as found:
        assert [next(found) for _ in range(5)] == list(range(5))
        with pytest.raises(ValueError, match="the sixth"):
            next(found)


def test_work_ahead_ends_with_the_block_and_not_only_with_the_items():
    made = []

    def items():
        for item in range(1000):
            made.append(item)
            yield item

    with ahead(items(), depth=2) as found:
        assert next(found) == 0
    assert len(made) <= 5
