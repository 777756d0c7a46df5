"""Run a verb: catch what a user can mend, print the summary for machines, and choose the exit code."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.failures import explain
from rag_clip.cli.log import Log, opened_log

if TYPE_CHECKING:
    from rag_clip.protocols import Encoder

FAILED, SOME_ROWS_FAILED, INTERRUPTED = 1, 3, 130

ENCODER, HEAD, CAPTIONS = Group("Encoder", sort_key=2), Group("Head", sort_key=3), Group("Captions found", sort_key=4)
FILTERS, TASKS, COMPARING = Group("Filters", sort_key=4), Group("Tasks", sort_key=4), Group("Comparing", sort_key=5)
COLUMNS, RUNNING = Group("Columns", sort_key=6), Group("Running", sort_key=9)
IMAGES = "Parquet files, webdataset tars, lists of images (.csv, .tsv, .jsonl), folders of these or of images, or URLs."
Device = Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, mps; chosen by default.")]
Precision = Annotated[Literal["fp32", "bf16", "fp16"] | None, Parameter(help="Chosen by device by default.")]
Force = Annotated[
    bool,
    Parameter(
        name="--force",
        negative=(),
        group=RUNNING,
        help="Write even where files of others lie; an input is never written over.",
    ),
]
ImageColumn = Annotated[str, Parameter(group=COLUMNS, help="The column of the images; found by other usual names too.")]
LabelColumn = Annotated[str, Parameter(group=COLUMNS, help="The column of the labels; found by other usual names too.")]
Seed = Annotated[int, Parameter(help="Seed of what is drawn at random.")]
Workers = Annotated[int | None, Parameter(group=RUNNING, help="Decoding processes; 0 decodes in this one.")]


@Parameter(name="*", group=RUNNING)
@dataclass(frozen=True)
class Shown:
    """What a verb shows of its work, and where it writes it down."""

    as_json: Annotated[bool, Parameter(name="--json", negative=(), help="Print the summary as JSON.")] = False
    quiet: Annotated[bool, Parameter(negative=(), help="Show no progress and no summary, only what went wrong.")] = (
        False
    )
    log: Annotated[
        Path | None, Parameter(help="Write progress, summary and errors at the end of this file too, with the time.")
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
        """Load the encoder, or another `model` in the same way, and say how long it took."""
        with console.loading(f"the model {model or self.model}"):
            from rag_clip.models.open_clip import load_encoder

            return load_encoder(model or self.model, device=self.device, precision=self.precision)

    @property
    def files(self) -> list[str]:
        """The file or folder that the model is read from, if it is one."""
        return model_files(self.model)


def model_files(*models: str) -> list[str]:
    """Return the files and folders that models name: PLACE of KIND:PLACE and of NAME:TAG@PLACE."""
    places = [model.partition(":")[2] for model in models]
    return [one for place in places for one in (place, place.partition("@")[2]) if one]


def toml_files(*names: str) -> list[str]:
    """Return the files of FILE.toml and FILE.toml:NAME."""
    return [f"{name.partition('.toml')[0]}.toml" for name in names if ".toml" in name]


def run(job: Callable[[Console], object], shown: Shown = SHOWN) -> int:
    """Call a verb's job with a console; return its exit code. A summary that counts `failed` rows ends with 3."""
    try:
        with opened_log(shown.log) as log:
            return _run(job, shown, log)
    except (OSError, ValueError) as error:
        print(f"rag-clip: {explain(error)}", file=sys.stderr)
        return FAILED


def _run(job: Callable[[Console], object], shown: Shown, log: Log | None) -> int:
    start = time.perf_counter()
    console = Console(results=not (shown.as_json or shown.quiet), progress=not shown.quiet, log=log)
    try:
        with console:
            facts = _to_dict(job(console))
        if shown.as_json:
            print(json.dumps({**facts, "wall_seconds": round(time.perf_counter() - start, 3)}, default=str))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        console.fail("interrupted; what is finished is kept, run the same command again to go on")
        return INTERRUPTED
    except Exception as error:
        reason = explain(error)
        if reason is None:
            if log:
                log.write(f"a fault of rag-clip: {error!r}")
            raise
        from rag_clip.files.locations import without_secrets

        console.fail(f"rag-clip: {without_secrets(reason)}")
        return FAILED
    return SOME_ROWS_FAILED if facts.get("failed") else 0


def _to_dict(summary: object) -> dict[str, Any]:
    if is_dataclass(summary) and not isinstance(summary, type):
        return asdict(summary)
    return dict(summary) if isinstance(summary, Mapping) else {}
