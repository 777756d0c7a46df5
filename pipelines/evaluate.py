"""Measure prompts and heads on labelled images: tasks x prompts files x heads, on features that are encoded once.

Finished runs are kept beside the results, each under a hash of everything that decides its numbers: the same call again
measures only what is new, and an interrupted call continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa

from rag_clip.classifiers.reuse import NOTHING, Reuse
from rag_clip.display import counted, html_table
from rag_clip.evaluation.image_tasks import ImageTask, read_images
from rag_clip.evaluation.measuring import Measuring, TaskImages
from rag_clip.evaluation.open_runs import OpenRun
from rag_clip.evaluation.results import Result, runs_folder, store_run, stored_run, to_table, write_tables
from rag_clip.evaluation.rival_names import Candidates
from rag_clip.evaluation.runs import PromptFile, Run, with_candidates
from rag_clip.evaluation.shot_runs import NO_HEADS, Heads, ShotRun
from rag_clip.files.outputs import check_outputs, holding
from rag_clip.given import (
    AnyEncoder,
    AnyTasks,
    AnyTexts,
    kept_with,
    scratch_output,
    to_encoder,
    to_prompt_files,
    to_tasks,
)
from rag_clip.images.labelled import Labelled
from rag_clip.progress import Progress, ProgressEvent
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder

from .running import Running


@dataclass(frozen=True, slots=True, weakref_slot=True)
class EvaluateSummary:
    """What `evaluate` did.

    output: the results file.
    results: of all runs, in order.
    measured, found: runs measured in this call, and runs kept from earlier calls.
    failed: images that could not be used.
    seconds, bottleneck: seconds per stage, and the slowest stage.
    """

    output: Path
    results: tuple[Result, ...]
    measured: int
    found: int
    failed: int
    seconds: Mapping[str, float]
    bottleneck: str

    def to_polars(self) -> pl.DataFrame:
        """Return the numbers in long form, as in `output`: a row per task, run, metric and item."""
        tables = [to_table(result) for result in self.results]
        return pl.DataFrame(pa.concat_tables(tables)) if tables else pl.DataFrame()

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.output}: {counted(self.measured, 'run')} measured, {self.found} there already"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = (
            {"task": result.task, "run": result.run, result.main.metric: result.main.value} for result in self.results
        )
        return html_table(str(self), rows)


@on_screen.job()
def evaluate(
    tasks: AnyTasks,
    *,
    prompts: AnyTexts = (),
    output: str | Path | None = None,
    encoder: AnyEncoder | None = None,
    heads: Heads = NO_HEADS,
    candidates: Candidates | None = None,
    reuse: Reuse = NOTHING,
    running: Running = Running(),  # noqa: B008
) -> EvaluateSummary:
    """Measure each of the prompts alone and with each head on each task of its classes; write `output` in long form.

    tasks: labelled images (a path, a frame), features in a file, task files, bundled tasks by name, or a list of these.
        The classes of plain images are those of the first prompts. Features need no encoder; the text features of
        their file are runs too.
    prompts: Prompts or their file, a list of these, or a mapping from the names of the runs to them.
    output: a Parquet file; without it, results are in a temporary file for as long as the summary exists.
    encoder: an encoder or the name of a model; by default the one that the first prompts record.
    heads: heads to measure beside every text, on support files or on shots drawn from the tasks.
    candidates: names added to the classes, to find those to which texts alone lose most images.
    reuse: a folder that keeps image features, and the index whose captions are already encoded.
    running: processes, batch size, `force` and progress. Each finished run is reported, in order, as the `item` of an
        event of the whole.

    Raises ValueError for input and settings that cannot be used, and for an `output` that is an input or (without
    `force`) not of an earlier call; FileNotFoundError for a missing file, PermissionError if `output` must not be
    written, and BusyError if another process writes it.
    """
    texts, progress, report = to_prompt_files(prompts), Progress(report=running.report), running.report
    tasks = to_tasks(tasks, labels=texts[0].prompts.labels if texts else None)
    output, let_go = scratch_output(output, "results.parquet")
    written = evaluate_outputs(output, reuse.features_dir)
    bank = heads.hub_bank.place if heads.hub_bank else None
    inputs = [*task_files(tasks), *(each.path for each in texts), reuse.place, bank]
    check_outputs(written, inputs=inputs, force=running.force)
    recorded = texts[0].prompts.recorded.encoder if texts else {}
    if encoder is not None or recorded.get("spec"):
        encoder = to_encoder(encoder, recorded=recorded)
    plans = _plan(tasks, texts, heads, candidates, encoder=encoder, index=reuse.place)
    read = partial(
        read_images,
        encoder=encoder,
        others=heads.others,
        features_dir=reuse.features_dir,
        decoding=running.decoding,
        report=report,
    )
    measure = Measuring(encoder, heads.others, reuse=reuse, candidates=candidates, progress=progress)
    results: list[Result] = []
    tables: list[pa.Table] = []
    measured = 0
    total = sum(len(runs) for _, runs in plans)
    with holding(written, force=running.force):
        report(ProgressEvent("evaluate", 0, total, "runs", whole=True))
        for task, run, images in _walk(plans, read, progress):
            result = stored_run(output, run.key)
            if result is None:
                result = measure(run, images)
                store_run(output, result)
                measured += 1
            # The key identifies the numbers; the names of task and run may have changed.
            results.append(replace(result, task=task.name, run=run.name, tier=run.tier, settings=run.settings))
            tables.append(to_table(results[-1]))
            write_tables(output, tables)
            report(ProgressEvent("evaluate", len(results), total, "runs", whole=True, item=results[-1]))
    failed = sum({result.task: result.counts.failed for result in results}.values())
    found = len(results) - measured
    summary = EvaluateSummary(
        output, tuple(results), measured, found, failed, dict(progress.seconds), progress.bottleneck
    )
    return kept_with(summary, let_go)


def _plan(
    tasks: Sequence[ImageTask],
    texts: Sequence[PromptFile],
    heads: Heads,
    candidates: Candidates | None,
    *,
    encoder: Encoder | None,
    index: str | None,
) -> list[tuple[ImageTask, list[Run | ShotRun | OpenRun]]]:
    """Return the runs of each task, before any image is read or encoded."""
    _check_names(tasks)
    if candidates and not (texts and encoder):
        raise ValueError(
            "candidate names are added to the classes of prompts; give prompts, and the model that encodes them"
        )
    mark = None if encoder is None else encoder.fingerprint
    plans: list[tuple[ImageTask, list[Run | ShotRun | OpenRun]]] = []
    for task in tasks:
        runs = heads.plan(task, texts, encoder=mark, index=index)
        named = [with_candidates(run, task, candidates) if isinstance(run, Run) else run for run in runs]
        plans.append((task, named))
    planned = [run for _, runs in plans for run in runs]
    if heads.negatives and not any(isinstance(run, OpenRun) for run in planned):
        raise ValueError(
            "names of other things are compared with prompts, on images of one label each; give prompts, the model "
            "that encodes them, and such a task"
        )
    if heads.hub_bank and not any(isinstance(run, Run) and run.hub_bank for run in planned):
        raise ValueError("the hub correction is of the texts of prompts; give prompts, and the model that encodes them")
    return plans


def _walk(
    plans: Sequence[tuple[ImageTask, list[Run | ShotRun | OpenRun]]],
    read: Callable[[ImageTask], Labelled],
    progress: Progress,
) -> Iterator[tuple[ImageTask, Run | ShotRun | OpenRun, TaskImages]]:
    """Yield each run with the images of its task, which are released before those of the next task are read."""
    for task, planned in plans:
        images = TaskImages(task, read, progress)
        for run in planned:
            yield task, run, images


def _check_names(tasks: Sequence[ImageTask]) -> None:
    names = [task.name for task in tasks]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise ValueError(f"two tasks have the name {repeated!r}; give each a name of its own")


def evaluate_outputs(output: Path, features: str | Path | None) -> list[tuple[str | Path | None, str]]:
    """Return what `evaluate` writes, for `check_outputs`; raises ValueError for another suffix than .parquet."""
    if output.is_dir() or output.suffix.lower() != ".parquet":
        raise ValueError(f"the output {output} would be Parquet; name a file with the suffix .parquet")
    return [(output, "evaluate"), (runs_folder(output), "runs"), (features, "features")]


def task_files(tasks: Sequence[ImageTask]) -> list[str | Path]:
    """Return the files and folders that tasks are read from."""
    places = [path for task in tasks for path in (*task.paths, *([task.train] if task.train else ()))]
    return [place for place in places if isinstance(place, str | Path)]
