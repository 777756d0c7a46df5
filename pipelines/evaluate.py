"""Measure prompts and heads on labelled images: tasks x prompts files x heads, on features that are encoded once.

A run that is finished stays beside the results, under the name of all that decides its numbers: the same call again
measures only what is new, and a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Prompts
from rag_clip.evaluate.feature_file import read_features
from rag_clip.evaluate.splits import Train
from rag_clip.heads import HEADS
from rag_clip.progress import Progress, Report, StageClock, silent
from rag_clip.protocols import Classifier, Encoder
from rag_clip.store import open_store
from rag_clip.stored_vectors import stored_vectors

from .evaluation.few_shot import measure_shots, read_pool
from .evaluation.measures import classify_test, image_table, measure
from .evaluation.results import Result, store_run, stored_run, write_results
from .evaluation.runs import HeadChoice, PromptFile, Run, TextRow, plan_runs
from .evaluation.shot_runs import FewShot, ShotRun, plan_shots
from .evaluation.tasks import ImageTask, Measured, read_images, to_measure
from .evaluation.vocabulary_measures import measure_vocabulary
from .heads import prepare_head


@dataclass(frozen=True, slots=True)
class EvaluateSummary:
    """What `evaluate` did: the runs measured now, those found from before, images that could not be used, seconds."""

    output: Path
    results: tuple[Result, ...]
    measured: int
    found: int
    failed: int
    seconds: Mapping[str, float]
    bottleneck: str


def evaluate(
    tasks: Sequence[ImageTask],
    *,
    output: str | Path,
    texts: Sequence[PromptFile] = (),
    encoder: Encoder | None = None,
    heads: Sequence[HeadChoice] = (),
    few_shot: FewShot | None = None,
    others: Mapping[str, Encoder] | None = None,
    scale: float | None = None,
    index: str | None = None,
    features_dir: str | Path | None = None,
    workers: int | None = None,
    on_result: Callable[[Result], None] = lambda _result: None,
    report: Report = silent,
) -> EvaluateSummary:
    """Measure each prompts file alone and with each head on each task of its classes; write `output` in long form.

    `on_result` is called with each run once it is finished, in order. `others` are further encoders that heads need;
    with `index`, the one the prompts came from, its captions are not encoded again. A task of features needs no
    encoder; the text features of its file are runs too, at `scale` where the file does not say it. `few_shot` are
    heads on shots drawn from the tasks, beside every text.

    Raises ValueError for input and settings that cannot be used, and FileNotFoundError for a missing file.
    """
    output, others, clock = _check_output(output), others or {}, StageClock()
    _check_names(tasks)
    marks = {name: each.fingerprint for name, each in others.items()}
    mark = None if encoder is None else encoder.fingerprint
    plain = [(task, plan_runs(task, texts, heads, encoder=mark, others=marks, scale=scale)) for task in tasks]
    plans = [(task, plan_shots(task, runs, few_shot, encoder=mark, others=marks)) for task, runs in plain]
    read = partial(
        read_images, encoder=encoder, others=others, features_dir=features_dir, workers=workers, report=report
    )
    build = _Builder(encoder, others, index, clock, report)
    results: list[Result] = []
    measured = failed = 0
    for task, runs in plans:
        images: Measured | None = None
        pool: Train | None = None
        for run in runs:
            if found := stored_run(output, run.key):
                result = replace(found, task=task.name, run=run.name)
            else:
                if images is None:
                    with clock.stage("images"):
                        images = to_measure(task, read(task))
                        pool = read_pool(task, read) if few_shot else None
                    failed += images.failed
                if isinstance(run, ShotRun):
                    alone = build.alone(run.alone, task)
                    with clock.stage("few shots"):
                        result = measure_shots(task, run, alone, images, pool, encoder=encoder)
                else:
                    result = _measure(task, run, images, build(run, task), clock)
                store_run(output, result)
                measured += 1
            results.append(result)
            on_result(result)
            write_results(output, results)
            report(Progress("evaluate", len(results), sum(len(runs) for _, runs in plans), "runs"))
    return EvaluateSummary(
        output, tuple(results), measured, len(results) - measured, failed, dict(clock.seconds), clock.bottleneck
    )


def _measure(task: ImageTask, run: Run, images: Measured, classifier: Classifier, clock: StageClock) -> Result:
    with clock.stage("match"):
        logits = classify_test(classifier, images.test)
    with clock.stage("measure"):
        truth = images.test.truth
        measures = measure(logits, truth, task.labels, metric=task.metric)
        measures += measure_vocabulary(logits, truth, task.labels)
        table = image_table(logits, truth, images.rows, task.labels) if truth.ndim == 1 else None
    settings = {**run.settings, "images": len(truth), "failed": images.failed}
    return Result(task.name, run.name, run.tier, run.key, settings, measures, table)


class _Builder:
    """Builds the classifier of a run; the texts of a prompts file are encoded once for all of its heads."""

    def __init__(
        self,
        encoder: Encoder | None,
        others: Mapping[str, Encoder],
        index: str | None,
        clock: StageClock,
        report: Report,
    ) -> None:
        self._encoder, self._others, self._index = encoder, others, index
        self._clock, self._report = clock, report
        self._alone: dict[str, ZeroShot] = {}

    def __call__(self, run: Run, task: ImageTask) -> Classifier:
        alone, chosen = self.alone(run, task), run.head
        if chosen is None:
            return alone
        with self._clock.stage("head"):
            head = prepare_head(
                chosen.name,
                chosen.support,
                labels=alone.labels,
                encoder=self._needed(),
                others=self._others if HEADS[chosen.name].second_encoder else {},
                validation=chosen.validation,
                options=chosen.options,
                report=self._report,
            )
            return head.build(alone)

    def alone(self, run: Run, task: ImageTask) -> ZeroShot:
        """Return the classifier of the texts of a run, without its head."""
        texts = run.texts
        if isinstance(texts, TextRow):
            return read_features(task.paths[0], labels=task.labels).zero_shot(texts.row, scale=texts.scale)
        if texts.name not in self._alone:
            with self._clock.stage("prompts"):
                self._alone = {texts.name: self._compose(texts.prompts)}  # runs of a file follow one another
        return self._alone[texts.name]

    def _needed(self) -> Encoder:
        if self._encoder is None:
            raise ValueError("prompts are texts to encode; name the model")
        return self._encoder

    def _compose(self, prompts: Prompts) -> ZeroShot:
        known, encoder = None, self._needed()
        if self._index:
            with open_store(self._index) as store:
                known = stored_vectors([prompts], store, encoder=encoder.fingerprint)
        return zero_shot(prompts, encoder, known=known, report=self._report)


def _check_names(tasks: Sequence[ImageTask]) -> None:
    names = [task.name for task in tasks]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise ValueError(f"two tasks are called {repeated!r}; name them apart")


def _check_output(output: str | Path) -> Path:
    output = Path(output)
    if output.is_dir() or output.suffix.lower() != ".parquet":
        raise ValueError(f"the output {output} would be Parquet; name a file with the suffix .parquet")
    return output
