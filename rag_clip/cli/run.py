"""Run a verb: turn errors that a user can fix into messages, print the JSON summary, and choose the exit code."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.log import Log, opened_log
from rag_clip.cli.metrics import Metrics
from rag_clip.errors import explain

if TYPE_CHECKING:
    from rag_clip.protocols import Encoder
    from rag_clip.protocols import Workers as Elsewhere

FAILED, SOME_ROWS_FAILED, INTERRUPTED = 1, 3, 130

ENCODER, HEAD, CAPTIONS = Group("Encoder", sort_key=2), Group("Head", sort_key=3), Group("Captions found", sort_key=4)
FILTERS, TASKS, COMPARING = Group("Filters", sort_key=4), Group("Tasks", sort_key=4), Group("Comparing", sort_key=5)
COLUMNS, RUNNING = Group("Columns", sort_key=6), Group("Running", sort_key=9)
IMAGES = "Parquet files, webdataset tars, lists of images (.csv, .tsv, .jsonl), folders of these or of images, or URLs."
Device = Annotated[
    str | None,
    Parameter(
        help="cpu, cuda, cuda:1 or mps; by default the fastest one available. Heavy verbs take several, as "
        "cuda:0,cuda:1, and cuda as all GPUs."
    ),
]
Ray = Annotated[
    list[str] | None,
    Parameter(
        group=RUNNING,
        negative=(),
        consume_multiple=(0, 1),
        help="Encode on the Ray cluster at this address, or at hand (extra ray); inputs and outputs in shared folders.",
    ),
]
Precision = Annotated[Literal["fp32", "bf16", "fp16"] | None, Parameter(help="By default it depends on the device.")]
Force = Annotated[
    bool,
    Parameter(
        name="--force",
        negative=(),
        group=RUNNING,
        help="Overwrite files of other verbs and programs too; an input is never overwritten.",
    ),
]
ImageColumn = Annotated[
    str, Parameter(group=COLUMNS, help="The column of the images; other usual names are found too.")
]
LabelColumn = Annotated[
    str, Parameter(group=COLUMNS, help="The column of the labels; other usual names are found too.")
]
Seed = Annotated[int, Parameter(help="Seed of the random numbers.")]
Workers = Annotated[
    int | None, Parameter(group=RUNNING, help="Images decoded at once beside the encoding; 0 decodes between batches.")
]


@Parameter(name="*", group=RUNNING)
@dataclass(frozen=True)
class Shown:
    """How a verb prints its progress and results, and the log file."""

    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="Print the summary as JSON.")] = False
    quiet: Annotated[bool, Parameter(negative=(), help="Print no progress and no summary, only errors.")] = False
    log: Annotated[
        Path | None, Parameter(help="Also append progress, summary and errors to this file, with the time.")
    ] = None
    metrics: Annotated[
        str | None,
        Parameter(
            help="Progress for Prometheus: FILE.prom, for the textfile collector, or [HOST]:PORT, to be scraped while "
            "the run goes on."
        ),
    ] = None


SHOWN = Shown()


@Parameter(name="*", group=ENCODER)
@dataclass(frozen=True)
class EncoderOptions:
    """The options of a verb that needs an encoder."""

    model: Annotated[
        str, Parameter(help="demo, NAME:TAG, NAME:TAG@FILE (local weights), hf-hub:OWNER/NAME, local-dir:FOLDER.")
    ]
    device: Device = None
    precision: Precision = None

    def load(self, console: Console, model: str | None = None) -> Encoder:
        """Load the encoder, or another `model` with the same options, and print how long it took."""
        with console.loading(f"the model {model or self.model}"):
            from rag_clip.models.open_clip import load_encoder

            return load_encoder(model or self.model, device=self.device, precision=self.precision)

    @property
    def files(self) -> list[str]:
        """The file or folder of the model, if it has one."""
        return model_files(self.model)


Options = TypeVar("Options", bound=EncoderOptions)


def spread(options: Options, ray: list[str] | None) -> tuple[Options, Elsewhere | None]:
    """Return the options of an encoder with one device, and what encodes: a process a device, actors, or None for here.

    Raises ValueError where both several devices and Ray are given.
    """
    from rag_clip.pipelines.devices import DeviceProcesses, choose_devices

    devices = choose_devices(options.device)
    if ray is not None:
        if len(devices) > 1:
            raise ValueError(
                "--ray encodes on the devices of the cluster; leave out --device, or give the one of this run"
            )
        from rag_clip.pipelines.ray_actors import RayActors

        return options, RayActors(*ray)
    if len(devices) < 2:
        return options, None
    return replace(options, device=devices[0]), DeviceProcesses(devices)


def model_files(*models: str) -> list[str]:
    """Return the files and folders that models name: PLACE in KIND:PLACE and in NAME:TAG@PLACE."""
    places = [model.partition(":")[2] for model in models]
    return [path for place in places for path in (place, place.partition("@")[2]) if path]


def toml_files(*names: str) -> list[str]:
    """Return FILE.toml for each name of the form FILE.toml or FILE.toml:NAME."""
    return [f"{name.partition('.toml')[0]}.toml" for name in names if ".toml" in name]


def run(job: Callable[[Console], object], shown: Shown = SHOWN) -> int:
    """Call a verb's job with a console, and return the exit code: 3 if its summary counts `failed` rows."""
    try:
        with opened_log(shown.log) as log:
            metrics = Metrics(shown.metrics) if shown.metrics else None
            code = _run(job, shown, log, metrics)
            if metrics:
                metrics.end(code)
            return code
    except (OSError, ValueError) as error:
        print(f"rag-clip: {explain(error)}", file=sys.stderr)
        return FAILED


def _run(job: Callable[[Console], object], shown: Shown, log: Log | None, metrics: Metrics | None) -> int:
    start = time.perf_counter()
    console = Console(results=not (shown.as_json or shown.quiet), progress=not shown.quiet, log=log, metrics=metrics)
    try:
        with console:
            facts = _to_dict(job(console))
        if shown.as_json:
            print(json.dumps({**facts, "wall_seconds": round(time.perf_counter() - start, 3)}, default=str))
        sys.stdout.flush()
    except BrokenPipeError:  # the program that reads our output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        console.fail("interrupted; finished work is kept, run the same command again to continue")
        return INTERRUPTED
    except Exception as error:
        reason = explain(error)
        if reason is None:
            if log:
                log.write(f"a bug in rag-clip: {error!r}")
            raise
        from rag_clip.files.locations import without_secrets

        console.fail(f"rag-clip: {without_secrets(reason)}")
        return FAILED
    return SOME_ROWS_FAILED if facts.get("failed") else 0


def _to_dict(summary: object) -> dict[str, Any]:
    if is_dataclass(summary) and not isinstance(summary, type):
        return asdict(summary)
    return dict(summary) if isinstance(summary, Mapping) else {}
