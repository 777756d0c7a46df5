"""The cache of image features on disk."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_clip.data import Fingerprint
from rag_clip.files.features import FeatureCache, FeatureRows, feature_cache, open_features
from rag_clip.files.identity import identify

PRINT = Fingerprint(model="toy", pretrained="", weights="w", preprocessing="p")


def rows(count: int, *, dim: int = 4, bad: tuple[int, ...] = ()) -> FeatureRows:
    pooled = np.random.default_rng(count).normal(size=(count, dim)).astype(np.float32)
    pooled[list(bad)] = 0
    return FeatureRows(pooled, tuple("broken" if row in bad else None for row in range(count)))


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return feature_cache(tmp_path / "features", rows=10, dim=4, shard_rows=4)


def test_features_and_errors_come_back_as_they_went_in(cache: FeatureCache):
    stored = rows(4, bad=(1, 3))
    cache.write(4, stored)
    loaded = cache.read(4)
    np.testing.assert_array_equal(loaded.pooled, stored.pooled)
    assert loaded.errors == (None, "broken", None, "broken")
    assert loaded.good.tolist() == [0, 2]


def test_a_shard_may_hold_errors_only(cache: FeatureCache):
    cache.write(8, rows(2, bad=(0, 1)))
    assert (cache.read(8).pooled.tolist(), cache.read(8).good.tolist()) == ([[0.0] * 4] * 2, [])


def test_adjacent_missing_shards_are_one_run(cache: FeatureCache):
    assert cache.missing() == [(0, 10)]
    cache.write(4, rows(4))
    assert cache.missing() == [(0, 4), (8, 10)]
    cache.write(0, rows(4))
    cache.write(8, rows(2))
    assert cache.missing() == []


def test_a_damaged_shard_is_missing(cache: FeatureCache):
    cache.write(0, rows(4))
    shard = cache.folder / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    assert cache.missing() == [(0, 10)]


def test_a_shard_of_another_length_or_width_is_missing(cache: FeatureCache):
    cache.write(0, rows(3))
    feature_cache(cache.folder, rows=10, dim=8, shard_rows=4).write(4, rows(4, dim=8))
    assert cache.missing() == [(0, 10)]


def test_a_shard_that_is_not_settled_can_be_read_but_is_missing(cache: FeatureCache):
    cache.write(0, rows(4, bad=(2,)), settled=False)
    assert cache.read(0).errors == (None, None, "broken", None)
    assert cache.missing() == [(0, 10)]


def test_another_encoder_column_or_change_of_the_file_is_another_folder(tmp_path: Path):
    source = tmp_path / "images.parquet"
    source.write_bytes(b"one")
    facts: dict[str, Any] = {"encoder": PRINT, "source": identify(source), "column": "image", "rows": 3, "dim": 4}
    first = open_features(tmp_path, **facts).folder
    assert open_features(tmp_path, **facts).folder == first
    half = Fingerprint(model="toy", pretrained="", weights="w", preprocessing="p", precision="fp16")
    others = [open_features(tmp_path, **facts | {"encoder": half}), open_features(tmp_path, **facts | {"column": "b"})]
    os.utime(source, ns=(1, 1))
    others.append(open_features(tmp_path, **facts | {"source": identify(source)}))
    assert len({first, *(other.folder for other in others)}) == 4
    assert others[0].folder.parent.name == half.key


def test_a_full_disk_names_the_shard_and_keeps_the_others(cache: FeatureCache):
    cache.write(0, rows(4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write features to .*00001\.parquet .*finished shards are kept"):
            cache.write(4, rows(4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in cache.folder.iterdir()] == ["00000.parquet"]
    assert cache.missing() == [(4, 10)]
