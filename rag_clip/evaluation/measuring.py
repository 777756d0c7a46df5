"""Measure one run: build its classifier, match the images of its task, and collect the numbers.

The texts of a prompts file are encoded once for all of its heads, candidate names once per set of templates, and the
images of a task are read when the first of its runs needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from rag_clip.classifiers.heads import HEADS
from rag_clip.classifiers.hubs import correct_hubs
from rag_clip.classifiers.prepared import prepare_head
from rag_clip.classifiers.reuse import Reuse
from rag_clip.classifiers.zero_shot import TextVectors, ZeroShot, compose, encode_texts
from rag_clip.data import Prompts, SeveralLabels
from rag_clip.evaluation.feature_file import FeatureFile
from rag_clip.evaluation.few_shot import Pool, measure_shots, read_pool, refined_by
from rag_clip.evaluation.image_tasks import ImageTask, Measured, describe_failures, to_measure
from rag_clip.evaluation.measures import classify_test, image_table, measure, measure_cost
from rag_clip.evaluation.open_runs import OpenRun
from rag_clip.evaluation.open_world import measure_open
from rag_clip.evaluation.results import Measure, Result
from rag_clip.evaluation.rival_names import Candidates, CandidateTexts
from rag_clip.evaluation.runs import ChosenTexts, PromptFile, Run, TextRow
from rag_clip.evaluation.settings import ImageCounts
from rag_clip.evaluation.shot_runs import ShotRun
from rag_clip.evaluation.text_measures import measure_texts, measure_vocabulary
from rag_clip.images.labelled import Labelled
from rag_clip.progress import Progress
from rag_clip.protocols import Classifier, Encoder
from rag_clip.refinement.choose_prompts import align_prompts, choose_prompts, images_to_choose
from rag_clip.refinement.sampling import sample_images


class TaskImages:
    """The images of a task, read by `read` on first use."""

    def __init__(self, task: ImageTask, read: Callable[[ImageTask], Labelled], progress: Progress) -> None:
        self.task, self._read, self._progress = task, read, progress

    @cached_property
    def measured(self) -> Measured:
        """The images to measure."""
        with self._progress.stage("images"):
            return to_measure(self.task, self._read(self.task))

    @cached_property
    def file(self) -> FeatureFile:
        """The features file of the task, with its text features."""
        return self.task.read_features()

    @cached_property
    def pool(self) -> Pool | None:
        """The images of the train split, or None."""
        with self._progress.stage("images"):
            return read_pool(self.task, self._read)


class Measuring:
    """Measures runs; `others` are the further encoders of heads, `reuse` knows captions that are already encoded."""

    def __init__(
        self,
        encoder: Encoder | None,
        others: Mapping[str, Encoder],
        *,
        reuse: Reuse,
        candidates: Candidates | None,
        progress: Progress,
    ) -> None:
        self._encoder, self._others, self._reuse = encoder, others, reuse
        self._progress, self._report = progress, progress.report
        self._names = CandidateTexts(candidates, encoder, report=progress.report) if candidates and encoder else None
        self._negatives: dict[Candidates, CandidateTexts] = {}
        self._vectors: dict[Path, TextVectors] = {}
        self._choice: tuple[tuple[str, tuple[PromptFile, ...]], ZeroShot] | None = None  # of the runs before

    def __call__(self, run: Run | ShotRun | OpenRun, images: TaskImages) -> Result:
        """Return the numbers of a run on the images of its task."""
        task, measured = images.task, images.measured
        if isinstance(run, OpenRun):
            return self._open(run, images)
        if isinstance(run, ShotRun):
            alone, pool = self._alone(run.alone, images), images.pool
            with self._progress.stage("few shots"):
                return measure_shots(task, run, alone, measured, pool, encoder=self._encoder)
        alone, truth = self._alone(run, images), measured.test.truth
        classifier = self._refined(run, self._head(run, alone), alone, measured)
        with self._progress.stage("match"):
            logits = classify_test(classifier, measured.test)
        with self._progress.stage("measure"):
            measures = measure(logits, truth, task.labels, metric=task.metric)
            measures += measure_cost(classifier, measures[0])
            measures += measure_vocabulary(logits, truth, task.labels)
            table = None if isinstance(truth, SeveralLabels) else image_table(logits, truth, measured.rows, task.labels)
        if run.texts_alone:
            measures += self._measure_texts(run, alone, measured)
        failures = describe_failures(measured.errors)
        counts = ImageCounts(images=len(truth), failed=failures.failed, reasons=failures.reasons)
        return Result(task.name, run.name, run.tier, run.key, run.settings, counts, measures, table)

    def _open(self, run: OpenRun, images: TaskImages) -> Result:
        texts = run.alone.texts
        assert isinstance(texts, PromptFile), "runs in an open world are planned beside prompts"
        alone = self._alone(run.alone, images)
        with self._progress.stage("open world"):
            return measure_open(images.task.name, run, alone, texts.prompts, images.measured, self._others_named)

    def _others_named(self, names: Candidates) -> CandidateTexts:
        """Return the texts of names of other things, encoded once for all prompts."""
        if names not in self._negatives:
            self._negatives[names] = CandidateTexts(names, self._needed(), report=self._report)
        return self._negatives[names]

    def _measure_texts(self, run: Run, alone: ZeroShot, images: Measured) -> tuple[Measure, ...]:
        with self._progress.stage("names"):
            if not isinstance(run.texts, PromptFile):
                return measure_texts(alone, images.test)
            texts = self._texts(run.texts.path, run.texts.prompts)
            known = {text: texts.vectors[row].cpu().numpy() for text, row in texts.rows.items()}
            return measure_texts(
                alone, images.test, run.texts.prompts, self._encoder, self._names, known=known, report=self._report
            )

    def _alone(self, run: Run, images: TaskImages) -> ZeroShot:
        texts = run.texts
        if isinstance(texts, TextRow):
            return images.file.zero_shot(texts.row, scale=texts.scale)
        if isinstance(texts, ChosenTexts):
            return self._chosen(texts, images)
        with self._progress.stage("prompts"):
            return compose(texts.prompts, self._texts(texts.path, texts.prompts), self._needed())

    def _refined(self, run: Run, classifier: Classifier, alone: ZeroShot, images: Measured) -> Classifier:
        if not run.refine:
            return classifier
        with self._progress.stage("refine"):
            return refined_by(classifier, alone.weights, images.test.features)

    def _chosen(self, texts: ChosenTexts, images: TaskImages) -> ZeroShot:
        """Return the classifier of the texts that the images choose."""
        place = (images.task.name, texts.files)
        if self._choice is None or self._choice[0] != place:
            candidates = align_prompts({file.name: file.prompts for file in texts.files})
            with self._progress.stage("prompts"):
                each = [
                    compose(prompts, self._texts(file.path, prompts), self._needed())
                    for file, prompts in zip(texts.files, candidates.values(), strict=True)
                ]
            with self._progress.stage("choose"):
                labels = each[0].labels
                sample = sample_images([images.measured.test.features], images_to_choose(len(labels)))
                pooled = sample.pooled if sample else each[0].weights[:0]
                self._choice = place, choose_prompts(candidates, each, pooled).classifier
        return self._choice[1]

    def _head(self, run: Run, alone: ZeroShot) -> Classifier:
        chosen = run.head
        if run.hub_bank is not None:
            with self._progress.stage("hub bank"):
                return correct_hubs(alone, run.hub_bank.read(self._needed().fingerprint), weight=run.hub_bank.weight)
        if chosen is None:
            return alone
        with self._progress.stage("head"):
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
            return (head if chosen.floor else head.without_floor()).build(alone)

    def _texts(self, path: Path, prompts: Prompts) -> TextVectors:
        if path not in self._vectors:
            encoder = self._needed()
            known = self._reuse.vectors([prompts], encoder)
            vectors = encode_texts([prompts], encoder, known=known, report=self._report)
            self._vectors = {path: vectors}  # runs of the same file are consecutive
        return self._vectors[path]

    def _needed(self) -> Encoder:
        if self._encoder is None:
            raise ValueError("prompts are texts to encode; name the model")
        return self._encoder
