"""Several processes on one machine, each with the model: the same outputs, and what a killed one leaves."""

from __future__ import annotations

import gc
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from inputs.captions import write_captions
from inputs.devices import FatalEncoder, multiply, read_file
from inputs.pairs import write_pairs
from inputs.pictures import colour_prompts, colours, picture, write_images
from rag_clip.captions.shards import ShardFolder
from rag_clip.cli import app
from rag_clip.data import LabelSet
from rag_clip.files.prompts import write_prompts
from rag_clip.given import to_images
from rag_clip.images.labelled import read_labelled
from rag_clip.images.opening import Images
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.portable import portable
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.devices import DeviceProcesses, WorkerError, choose_devices
from rag_clip.pipelines.embed import embed_captions
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running
from rag_clip.prompts.templates import template_prompts
from rag_clip.store import open_store
from rag_clip.testing import ToyEncoder

TWO = ("cpu", "cpu")


def running(elsewhere: DeviceProcesses | None, **settings: Any) -> Running:
    return Running(0, 4, shard_rows=8, elsewhere=elsewhere, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def two() -> DeviceProcesses:
    return DeviceProcesses(TWO)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    names = colours(30)
    return write_images(tmp_path / "images.parquet", [picture(name) for name in names], label=names)


def test_two_processes_classify_to_the_bytes_of_one(source: Path, tmp_path: Path, two: DeviceProcesses) -> None:
    prompts = colour_prompts("red", "green", "blue")
    made = {}
    for name, elsewhere in (("one", None), ("two", two)):
        made[name] = classify(
            source,
            prompts=prompts,
            output=tmp_path / f"{name}.parquet",
            encoder=ToyEncoder(),
            running=running(elsewhere),
        )
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert (made["two"].decoded, made["two"].from_cache) == (30, 0)
    assert set(made["two"].seconds) == set(made["one"].seconds)


def test_two_processes_embed_pairs_and_captions_to_the_shards_of_one(tmp_path: Path, two: DeviceProcesses) -> None:
    names = colours(20)
    pairs = write_pairs(
        tmp_path / "web.parquet", [picture(name) for name in names], [f"a {name} thing" for name in names]
    )
    captions = write_captions(
        tmp_path / "captions.parquet", [f"caption {row}" if row % 7 else None for row in range(95)]
    )
    for name, elsewhere in (("one", None), ("two", two)):
        folder, run = tmp_path / name, running(elsewhere)
        index_images(
            [pairs], index=folder / "index", shards=folder / "pairs", encoder=ToyEncoder(), noise=False, running=run
        )
        made = embed_captions(
            [captions], shards=ShardFolder(folder / "captions", rows=10), encoder=ToyEncoder(), running=run
        )
        assert (made.written, made.finished, made.embedded) == (10, 0, 81)
    for kind in ("pairs", "captions"):
        one, of_two = contents(tmp_path / "one" / kind), contents(tmp_path / "two" / kind)
        assert len(one) >= 3
        assert one == of_two


def test_two_processes_build_the_index_of_one(tmp_path: Path, two: DeviceProcesses) -> None:
    captions = write_captions(tmp_path / "captions.parquet", [f"caption {row % 80}" for row in range(95)])
    frame = pa.table({"caption": ["a frame", "of captions", None]})
    made = {}
    for name, elsewhere in (("one", None), ("two", two)):
        folder = tmp_path / name
        made[name] = build_index(
            [captions, frame],
            index=folder / "index",
            encoder=ToyEncoder(),
            shards=ShardFolder(folder / "shards", rows=10),
            running=running(elsewhere),
        )
    assert contents(tmp_path / "one" / "shards") == contents(tmp_path / "two" / "shards") != {}
    places: dict[str, Any] = {"location": "", "shards": "", "seconds": {}, "bottleneck": ""}
    assert replace(made["one"], **places) == replace(made["two"], **places)
    assert (made["two"].added, made["two"].embedded, made["two"].kept) == (82, 97, 97)
    with open_store(tmp_path / "one" / "index") as one, open_store(tmp_path / "two" / "index") as both:
        assert list(one.scroll(vectors=True)) == list(both.scroll(vectors=True))


def test_images_in_any_form_go_to_the_processes(source: Path, tmp_path: Path, two: DeviceProcesses) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for row, name in enumerate(colours(9)):
        (folder / f"{row}.png").write_bytes(picture(name))
    frame = pa.table({"image": [picture(name) for name in colours(9)]})
    prompts = colour_prompts("red", "green", "blue")
    for images in (folder, frame):
        one, both = (
            classify(to_images(images), prompts=prompts, encoder=ToyEncoder(), running=running(elsewhere)).to_polars()
            for elsewhere in (None, two)
        )
        assert both.equals(one)


def test_a_loaded_model_is_loaded_again_by_its_name(source: Path, two: DeviceProcesses) -> None:
    encoder = load_encoder("demo")
    labels = template_prompts(LabelSet(("red", "green", "blue")))
    one, both = (
        classify(source, prompts=labels, encoder=encoder, running=running(elsewhere)).to_polars()
        for elsewhere in (None, two)
    )
    assert both.equals(one)


def test_a_killed_process_is_one_error_and_the_next_run_finishes(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    options: dict[str, Any] = {"prompts": colour_prompts("red", "green", "blue"), "output": output}
    fatal = FatalEncoder(place=str(tmp_path))
    processes = DeviceProcesses(["cpu"])
    with pytest.raises(WorkerError, match=r"process of cpu ended with exit code -9; .* finished shards are kept"):
        classify(source, encoder=fatal, running=running(processes), **options)
    assert not output.exists()
    again = classify(source, encoder=fatal, running=running(processes), **options)
    assert (again.rows, again.failed) == (30, 0)


def test_processes_end_with_their_object(source: Path) -> None:
    processes = DeviceProcesses(["cpu"])
    read_labelled(
        Images(source),
        colour_prompts("red", "green", "blue").labels,
        encoder=ToyEncoder(),
        decoding=running(processes).decoding,
    )
    (process,) = processes._processes
    assert process.poll() is None
    del processes
    gc.collect()
    assert process.poll() == -9


def test_an_error_in_a_process_is_raised_here(tmp_path: Path, two: DeviceProcesses) -> None:
    with pytest.raises(OSError, match="nowhere"):
        list(two.run(read_file, encoder=ToyEncoder(), given=None, units=[tmp_path / "nowhere"]))
    assert sorted(two.run(multiply, encoder=ToyEncoder(), given=3, units=[1, 2])) == [3, 6]


def test_devices_stand_between_commas() -> None:
    assert choose_devices("cuda:0, cuda:1") == ("cuda:0", "cuda:1")
    assert choose_devices(None) == ()
    assert choose_devices("cpu") == ("cpu",)
    with pytest.raises(ValueError, match="there is no device"):
        DeviceProcesses([])


def test_an_encoder_on_another_device_that_no_name_loads_is_refused() -> None:
    class Elsewhere(ToyEncoder):
        @property
        def device(self) -> Any:
            import torch

            return torch.device("meta")

    with pytest.raises(ValueError, match="was changed in memory"):
        portable(Elsewhere())


def test_the_verbs_take_devices_and_print_the_same(source: Path, tmp_path: Path) -> None:
    write_prompts(template_prompts(LabelSet(("red", "green", "blue"))), tmp_path / "prompts.parquet")
    for name, device in (("one", "cpu"), ("two", "cpu,cpu")):
        code, out = _call(
            *("classify", str(source), "--prompts", str(tmp_path / "prompts.parquet"), "--model", "demo"),
            *("--device", device, "-o", str(tmp_path / f"{name}.parquet")),
        )
        assert code == 0, out
    one, both = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert both.equals(one)


def test_a_verb_with_one_device_refuses_several(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red\n")
    code, out = _call(
        *("enhance", str(tmp_path / "labels.txt"), "--model", "demo", "--device", "cpu,cpu"),
        *("-o", str(tmp_path / "prompts.parquet"), "--recipe", "templates"),
    )
    assert (code, "device 'cpu,cpu' cannot be used" in out) == (1, True)


def _call(*arguments: str) -> tuple[int, str]:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        code = app(list(arguments), result_action="return_value")
    return int(code), out.getvalue() + errors.getvalue()
