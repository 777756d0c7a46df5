"""Interrupted runs of classify, and a disk without room."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from inputs.folders import TESTS
from inputs.limits import limited
from inputs.pictures import colour_prompts, colours, picture, write_images
from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.reuse import Reuse
from rag_clip.pipelines.classify import ClassifySummary, classify
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent, silent
from rag_clip.testing import ToyEncoder

SHARD_ROWS = 4
KILLED_RUN = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from inputs.pictures import LightEncoder, colour_prompts
    from rag_clip.pipelines.classify import classify
    from rag_clip.pipelines.running import Running

    def die_midway(event):
        if event.done >= 10:
            os.kill(os.getpid(), signal.SIGKILL)

    classify([sys.argv[1]], prompts=colour_prompts(), output=sys.argv[2], encoder=LightEncoder(),
             running=Running(1, 2, report=die_midway, shard_rows=4))
    """
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    images = [b"broken" if row == 1 else picture(name) for row, name in enumerate(colours(18))]
    return write_images(tmp_path / "in.parquet", images, id=list(range(18)))


def run(source: Path, output: Path, **settings: Any) -> ClassifySummary:
    defaults: dict[str, Any] = {
        "prompts": colour_prompts(),
        "encoder": ToyEncoder(),
        "running": Running(0, 2, shard_rows=SHARD_ROWS),
    }
    return classify([source], output=output, **defaults | settings)


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.parquet"))


def test_a_killed_run_continues_to_the_output_of_an_undisturbed_one(source: Path, tmp_path: Path):
    from inputs.pictures import LightEncoder

    output = tmp_path / "out.parquet"
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", KILLED_RUN, str(source), str(output)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not output.exists()
    assert shards(tmp_path / "out.parquet.parts") == ["00000.parquet", "00001.parquet"]

    summary = run(source, output, encoder=LightEncoder())
    assert (summary.from_cache, summary.decoded, summary.failed) == (8, 10, 1)
    undisturbed = tmp_path / "undisturbed.parquet"
    run(source, undisturbed, encoder=LightEncoder())
    assert output.read_bytes() == undisturbed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet", "undisturbed.parquet"]


def test_an_interrupt_leaves_finished_shards_and_no_output(source: Path, tmp_path: Path):
    def interrupt(event: ProgressEvent) -> None:
        if event.done >= 6:
            raise KeyboardInterrupt

    output = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(source, output, running=Running(0, 2, report=interrupt, shard_rows=SHARD_ROWS))
    assert not output.exists()
    assert shards(tmp_path / "out.parquet.parts") == ["00000.parquet"]
    assert run(source, output).from_cache == SHARD_ROWS


def test_an_interrupt_while_writing_keeps_the_old_output_and_every_shard(source: Path, tmp_path: Path):
    def interrupt(event: ProgressEvent) -> None:
        if event.stage == "write":
            raise KeyboardInterrupt

    output = tmp_path / "out.parquet"
    run(source, output, scoring=Scoring(top_k=1))
    old = output.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run(source, output, running=Running(0, 2, report=interrupt, shard_rows=SHARD_ROWS))
    assert output.read_bytes() == old
    assert len(shards(tmp_path / "out.parquet.parts")) == 5
    assert (
        run(source, output, running=Running(0, 2, report=silent, shard_rows=SHARD_ROWS)).decoded,
        pq.read_table(output).num_rows,
    ) == (
        0,
        18,
    )


def test_shards_of_an_interrupted_run_serve_other_prompts_but_not_another_encoder(source: Path, tmp_path: Path):
    def interrupt(event: ProgressEvent) -> None:
        if event.done >= 18:
            raise KeyboardInterrupt

    output = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(source, output, running=Running(0, 2, report=interrupt, shard_rows=SHARD_ROWS))
    wide = ToyEncoder(dim=64)
    assert (
        run(
            source,
            tmp_path / "x.parquet",
            encoder=wide,
            prompts=colour_prompts(encoder=wide),
            reuse=Reuse(features_dir=f"{output}.parts"),
        ).from_cache
        == 0
    )
    assert run(source, output, prompts=colour_prompts("blue", "red")).from_cache == 16


def test_a_full_disk_names_the_output_and_keeps_the_shards(source: Path, tmp_path: Path):
    output = tmp_path / "out.parquet"
    run(source, output, reuse=Reuse(features_dir=tmp_path / "features"))
    output.unlink()
    with (
        limited(resource.RLIMIT_FSIZE, 1500),
        pytest.raises(OSError, match=r"cannot write .*out\.parquet .*finished shards are kept"),
    ):
        run(source, output, reuse=Reuse(features_dir=tmp_path / "features"))
    assert not output.exists()
    assert shards(tmp_path / "out.parquet.parts") == []
    assert run(source, output, reuse=Reuse(features_dir=tmp_path / "features")).decoded == 0
