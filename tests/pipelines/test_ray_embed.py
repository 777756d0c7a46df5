from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rag_clip.captions.shards import ShardFolder
from rag_clip.progress import ProgressEvent
from rag_clip.testing import ToyEncoder

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.filterwarnings("default")

from inputs.captions import write_captions  # noqa: E402
from rag_clip.captions.shards import read_manifests, read_shard  # noqa: E402
from rag_clip.pipelines.embed import embed_captions  # noqa: E402
from rag_clip.pipelines.ray_embed import Actors, embed_on_ray  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def test_ray_makes_the_shards_that_one_machine_makes_and_makes_none_twice(tmp_path):
    paths = [
        write_captions(
            tmp_path / f"{name}.parquet", [f"caption {name} {row}" if row % 7 else None for row in range(95)]
        )
        for name in "ab"
    ]
    alone = embed_captions(paths, encoder=ToyEncoder(), shards=ShardFolder(tmp_path / "alone", rows=10))
    events: list[ProgressEvent] = []
    options: dict[str, Any] = {"shards": ShardFolder(tmp_path / "ray", 10), "actors": Actors(ToyEncoder, 2, gpus=0)}
    summary = embed_on_ray(paths, **options, report=events.append)
    assert summary.seconds.keys() == alone.seconds.keys()
    same: dict[str, Any] = {"shards": alone.shards, "keys": tuple(sorted(alone.keys)), "seconds": {}, "bottleneck": ""}
    assert replace(summary, **same) == replace(alone, **same)
    assert events[-1] == ProgressEvent("embed", 8, 8, "parts")
    assert contents(tmp_path / "ray") == contents(tmp_path / "alone")
    again = embed_on_ray(paths, **options)
    assert (again.written, again.finished) == (0, 20)


def contents(folder) -> list[tuple]:
    found = [
        (replace(manifest, created=""), list(read_shard(folder, manifest, 100))) for manifest in read_manifests(folder)
    ]
    return [(manifest, [batch.to_pylist() for batch in batches]) for manifest, batches in found]


def test_no_actors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="0 actors cannot embed"):
        Actors(ToyEncoder, 0)


def test_a_part_of_the_shards_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"embed all parts of the shards; leave out the part \(0, 2\)"):
        embed_on_ray([tmp_path], shards=ShardFolder(tmp_path, part=(0, 2)), actors=Actors(ToyEncoder, 1))
