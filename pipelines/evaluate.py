"""Measure prompts and heads on labelled images: tasks x prompts files x heads, on features that are encoded once.

A run that is finished stays beside the results, under the name of all that decides its numbers: the same call again
measures only what is new, and a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa

from rag_clip.display import counted, html_table
from rag_clip.evaluation.head_choices import HeadChoice
from rag_clip.evaluation.image_tasks import ImageTask, read_images
from rag_clip.evaluation.measuring import Measuring, TaskImages
from rag_clip.evaluation.results import Result, runs_folder, store_run, stored_run, to_table, write_tables
from rag_clip.evaluation.rival_names import Candidates
from rag_clip.evaluation.runs import PromptFile, Run, plan_runs, with_candidates
from rag_clip.evaluation.shot_runs import FewShot, ShotRun, plan_shots
from rag_clip.files.outputs import check_outputs, holding
from rag_clip.given import (
    AnyEncoder,
    AnyIndex,
    AnyTasks,
    AnyTexts,
    index_place,
    kept_with,
    scratch_output,
    to_encoder,
    to_prompt_files,
    to_tasks,
)
from rag_clip.images.decoding import Decoding
from rag_clip.images.labelled import Labelled
from rag_clip.progress import Progress, Report, StageClock
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder


@dataclass(frozen=True, slots=True, weakref_slot=True)
class EvaluateSummary:
    """What `evaluate` did: the runs measured now, those found from before, images that could not be used, seconds."""

    output: Path
    results: tuple[Result, ...]
    measured: int
    found: int
    failed: int
    seconds: Mapping[str, float]
    bottleneck: str

    def to_polars(self) -> pl.DataFrame:
        """Return the numbers in long form, as they lie in `output`: a row per task, run, metric and item."""
        tables = [to_table(result) for result in self.results]
        return pl.DataFrame(pa.concat_tables(tables)) if tables else pl.DataFrame()

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.output}: {counted(self.measured, 'run')} measured, {self.found} there already"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = ({"task": one.task, "run": one.run, one.main.metric: one.main.value} for one in self.results)
        return html_table(str(self), rows)


@on_screen.job()
def evaluate(
    tasks: AnyTasks,
    *,
    prompts: AnyTexts = (),
    output: str | Path | None = None,
    encoder: AnyEncoder | None = None,
    heads: Sequence[HeadChoice] = (),
    few_shot: FewShot | None = None,
    candidates: Candidates | None = None,
    others: Mapping[str, Encoder] | None = None,
    scale: float | None = None,
    index: AnyIndex | None = None,
    features_dir: str | Path | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008
    force: bool = False,
    on_result: Callable[[Result], None] = lambda _result: None,
    report: Report = on_screen,
) -> EvaluateSummary:
    """Measure each of the prompts alone and with each head on each task of its classes; write `output` in long form.

    `tasks` are labelled images (a path, a frame), features in a file, task files, bundled tasks by name, or a list of
    these; the classes of plain images are those of the first prompts. `prompts` are Prompts or a file of such, a list
    of these, or a mapping from the names that their runs shall have. `encoder` may be the name of a model, and is by
    default the one that the first prompts record. Without `output`, results lie in a temporary file for as long as the
    summary does.

    `on_result` is called with each run once it is finished, in order. `others` are further encoders that heads need;
    with `index`, the one the prompts came from, its captions are not encoded again. A task of features needs no
    encoder; the text features of its file are runs too, at `scale` where the file does not say it. `few_shot` are
    heads on shots drawn from the tasks, beside every text. `candidates` are names added to the classes, to find those
    that take most images from texts alone.

    Raises ValueError for input and settings that cannot be used, and for an `output` that is an input or, but with
    `force`, not of an earlier call; FileNotFoundError for a missing file, PermissionError for a place that may not be
    written to, and BusyError where another process writes `output`.
    """
    texts, index, others, clock = to_prompt_files(prompts), index_place(index), others or {}, StageClock()
    tasks = to_tasks(tasks, labels=texts[0].prompts.labels if texts else None)
    output, let_go = scratch_output(output, "results.parquet")
    written, inputs = evaluate_outputs(output, features_dir), [*task_files(tasks), *(one.path for one in texts), index]
    check_outputs(written, inputs=inputs, force=force)
    recorded = texts[0].prompts.provenance if texts else {}
    if encoder is not None or (recorded.get("encoder") or {}).get("spec"):
        encoder = to_encoder(encoder, recorded=recorded)
    plans = _plan(tasks, texts, heads, few_shot, candidates, encoder=encoder, others=others, scale=scale, index=index)
    read = partial(
        read_images, encoder=encoder, others=others, features_dir=features_dir, decoding=decoding, report=report
    )
    measure = Measuring(encoder, others, index=index, candidates=candidates, clock=clock, report=report)
    results: list[Result] = []
    tables: list[pa.Table] = []
    measured = 0
    total = sum(len(runs) for _, runs in plans)
    with holding(written, force=force):
        report(Progress("evaluate", 0, total, "runs", whole=True))
        for task, run, images in _walk(plans, read, clock):
            result = stored_run(output, run.key)
            if result is None:
                result = measure(run, images)
                store_run(output, result)
                measured += 1
            # Its key says what decides the numbers, not what they are called.
            results.append(replace(result, task=task.name, run=run.name, tier=run.tier, settings=run.settings))
            on_result(results[-1])
            tables.append(to_table(results[-1]))
            write_tables(output, tables)
            report(Progress("evaluate", len(results), total, "runs", whole=True))
    failed = sum({result.task: result.counts.failed for result in results}.values())
    found = len(results) - measured
    summary = EvaluateSummary(output, tuple(results), measured, found, failed, dict(clock.seconds), clock.bottleneck)
    return kept_with(summary, let_go)


def _plan(
    tasks: Sequence[ImageTask],
    texts: Sequence[PromptFile],
    heads: Sequence[HeadChoice],
    few_shot: FewShot | None,
    candidates: Candidates | None,
    *,
    encoder: Encoder | None,
    others: Mapping[str, Encoder],
    scale: float | None,
    index: str | None,
) -> list[tuple[ImageTask, list[Run | ShotRun]]]:
    """Return the runs of each task, before anything is read of its images or encoded."""
    _check_names(tasks)
    if candidates and not (texts and encoder):
        raise ValueError(
            "names are added to the classes of prompts files; give prompts, and the model that encodes them"
        )
    mark = None if encoder is None else encoder.fingerprint
    marks = {name: each.fingerprint for name, each in others.items()}
    plans: list[tuple[ImageTask, list[Run | ShotRun]]] = []
    for task in tasks:
        runs = plan_runs(task, texts, heads, encoder=mark, others=marks, scale=scale, index=index)
        beside = plan_shots(task, runs, few_shot, encoder=mark, others=marks)
        named = [with_candidates(run, task, candidates) if isinstance(run, Run) else run for run in beside]
        plans.append((task, named))
    return plans


def _walk(
    plans: Sequence[tuple[ImageTask, list[Run | ShotRun]]], read: Callable[[ImageTask], Labelled], clock: StageClock
) -> Iterator[tuple[ImageTask, Run | ShotRun, TaskImages]]:
    """Yield each run with the images of its task, which are let go before those of the next."""
    for task, planned in plans:
        images = TaskImages(task, read, clock)
        for run in planned:
            yield task, run, images


def _check_names(tasks: Sequence[ImageTask]) -> None:
    names = [task.name for task in tasks]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise ValueError(f"two tasks are called {repeated!r}; name them apart")


def evaluate_outputs(output: Path, features: str | Path | None) -> list[tuple[str | Path | None, str]]:
    """Return what `evaluate` writes, for `check_outputs`; raises ValueError for another suffix than .parquet."""
    if output.is_dir() or output.suffix.lower() != ".parquet":
        raise ValueError(f"the output {output} would be Parquet; name a file with the suffix .parquet")
    return [(output, "evaluate"), (runs_folder(output), "runs"), (features, "features")]


def task_files(tasks: Sequence[ImageTask]) -> list[str | Path]:
    """Return the files and folders that tasks are read from."""
    places = [path for task in tasks for path in (*task.paths, *([task.train] if task.train else ()))]
    return [place for place in places if isinstance(place, str | Path)]
