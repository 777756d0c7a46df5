"""A local Ray of several nodes: the outputs of one machine, also when a node is lost in the middle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.filterwarnings("default")

from ray.cluster_utils import Cluster  # noqa: E402

from inputs.captions import write_captions  # noqa: E402
from inputs.command_line import run  # noqa: E402
from inputs.devices import FatalEncoder, SlowEncoder, read_file  # noqa: E402
from inputs.pairs import write_pairs  # noqa: E402
from inputs.pictures import colour_prompts, colours, picture, write_images  # noqa: E402
from rag_clip.captions.shards import ShardFolder  # noqa: E402
from rag_clip.files.prompts import write_prompts  # noqa: E402
from rag_clip.images.labelled import read_labelled  # noqa: E402
from rag_clip.images.opening import Images  # noqa: E402
from rag_clip.pipelines.classify import classify  # noqa: E402
from rag_clip.pipelines.devices import WorkerError  # noqa: E402
from rag_clip.pipelines.embed import embed_captions  # noqa: E402
from rag_clip.pipelines.images import index_images  # noqa: E402
from rag_clip.pipelines.ray_actors import RayActors  # noqa: E402
from rag_clip.pipelines.running import Running  # noqa: E402
from rag_clip.prompts.templates import template_prompts  # noqa: E402
from rag_clip.testing import ToyEncoder  # noqa: E402

PROMPTS = colour_prompts("red", "green", "blue")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without processors, so that actors are on the other two nodes."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, configure_logging=False)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def running(elsewhere: RayActors | None) -> Running:
    return Running(0, 4, shard_rows=4, elsewhere=elsewhere)


def images(path: Path, count: int) -> Path:
    names = colours(count)
    return write_images(path, [picture(name) for name in names], label=names)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_every_heavy_job_writes_on_ray_what_one_machine_writes(cluster: Any, tmp_path: Path) -> None:
    source = images(tmp_path / "images.parquet", 18)
    pairs = write_pairs(tmp_path / "web.parquet", [picture(name) for name in colours(10)], [*"abcdefghij"])
    captions = write_captions(
        tmp_path / "captions.parquet", [f"caption {row}" if row % 7 else None for row in range(45)]
    )
    for name, elsewhere in (("one", None), ("ray", RayActors(count=2, gpus=0))):
        folder, run = tmp_path / name, running(elsewhere)
        folder.mkdir()
        classify(source, prompts=PROMPTS, output=folder / "predictions.parquet", encoder=ToyEncoder(), running=run)
        index_images(
            [pairs], index=folder / "index", shards=folder / "pairs", encoder=ToyEncoder(), noise=False, running=run
        )
        embed_captions([captions], shards=ShardFolder(folder / "captions", rows=10), encoder=ToyEncoder(), running=run)
        read_labelled(
            Images(source),
            PROMPTS.labels,
            encoder=ToyEncoder(),
            features_dir=folder / "features",
            decoding=run.decoding,
        )
    for kind in ("pairs", "captions", "features"):
        assert contents(tmp_path / "one" / kind) == contents(tmp_path / "ray" / kind) != {}
    one, on_ray = ((tmp_path / name / "predictions.parquet").read_bytes() for name in ("one", "ray"))
    assert one == on_ray


def test_actors_that_are_lost_are_replaced_by_others(cluster: Any, tmp_path: Path) -> None:
    source = images(tmp_path / "images.parquet", 12)
    actors = RayActors(count=2, gpus=0)
    made = classify(source, prompts=PROMPTS, encoder=FatalEncoder(place=str(tmp_path)), running=running(actors))
    assert (made.rows, made.failed, (tmp_path / "ended").exists()) == (12, 0, True)
    always = FatalEncoder(place=str(tmp_path), always=True)
    with pytest.raises(WorkerError, match="all actors of the cluster were lost; run again, finished shards are kept"):
        classify(source, prompts=PROMPTS, encoder=always, output=tmp_path / "out.parquet", running=running(actors))


def test_an_error_on_an_actor_is_raised_here(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        list(RayActors(count=1, gpus=0).run(read_file, encoder=ToyEncoder(), given=None, units=[tmp_path / "nowhere"]))


def test_features_in_a_temporary_folder_of_this_machine_are_refused(cluster: Any, tmp_path: Path) -> None:
    source = images(tmp_path / "images.parquet", 3)
    decoding = running(RayActors(count=1, gpus=0)).decoding
    with pytest.raises(ValueError, match="give a shared folder of features"):
        read_labelled(Images(source), PROMPTS.labels, encoder=ToyEncoder(), decoding=decoding)


def test_actors_without_room_are_not_waited_for(cluster: Any, tmp_path: Path) -> None:
    assert RayActors().count == 2  # the head has no processor
    actors, place = RayActors(count=5, gpus=0), tmp_path / "place"
    place.write_bytes(b"here")
    assert list(actors.run(read_file, encoder=ToyEncoder(), given=None, units=[place] * 7)) == [b"here"] * 7


def test_fewer_than_one_actor_is_refused() -> None:
    with pytest.raises(ValueError, match="0 actors cannot encode"):
        RayActors(count=0)


def test_a_part_of_the_shards_is_refused(cluster: Any, tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "captions.parquet", ["a cat"])
    with pytest.raises(ValueError, match=r"embed all parts of the shards; leave out the part \(0, 2\)"):
        embed_captions(
            [captions],
            shards=ShardFolder(tmp_path / "shards", part=(0, 2)),
            encoder=ToyEncoder(),
            running=running(RayActors(count=1, gpus=0)),
        )


def test_a_node_that_is_killed_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    source = images(tmp_path / "images.parquet", 40)
    classify(source, prompts=PROMPTS, output=tmp_path / "one.parquet", encoder=SlowEncoder(), running=running(None))
    features, finished = tmp_path / "ray.parquet.parts", list[int]()

    def kill() -> None:
        while not list(features.rglob("[0-9]*.parquet")):
            time.sleep(0.05)
        finished.append(len(list(features.rglob("[0-9]*.parquet"))))
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    actors = RayActors(count=2, gpus=0)
    made = classify(
        source, prompts=PROMPTS, output=tmp_path / "ray.parquet", encoder=SlowEncoder(), running=running(actors)
    )
    killer.join()
    assert (made.rows, made.failed) == (40, 0)
    assert 0 < finished[0] < 8  # of 10 shards, and two more were at work
    assert len(cluster.worker_nodes) == 1
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


def test_evaluate_keeps_the_features_that_all_nodes_must_see_beside_its_output(cluster: Any, tmp_path: Path) -> None:
    images(tmp_path / "images.parquet", 6)
    write_prompts(template_prompts(PROMPTS.labels), tmp_path / "p.parquet")
    given = ("images.parquet", "--prompts", "p.parquet", "-o", "out.parquet", "--model", "demo", "--ray")
    made = run("evaluate", *given, folder=tmp_path)
    assert made.code == 0, made.errors
    assert contents(tmp_path / "out.parquet.features")
