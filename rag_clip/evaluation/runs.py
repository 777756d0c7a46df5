"""Runs: a prompts file evaluated on a task, with or without a head, and a key of everything its numbers depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from rag_clip.classifiers.hubs import HubBank
from rag_clip.data import Fingerprint, LabelSet, Prompts
from rag_clip.display import counted
from rag_clip.evaluation.head_choices import HeadChoice, head_facts, others_of, tuning
from rag_clip.evaluation.image_tasks import ImageTask, place_of
from rag_clip.evaluation.results import FORMAT
from rag_clip.evaluation.rival_names import Candidates, rivals_of, with_synonyms
from rag_clip.evaluation.settings import CandidateFacts, PromptFacts, RunSettings, TaskFacts
from rag_clip.evaluation.tiers import tier_of, with_batch
from rag_clip.files.identity import hash_facts, identify
from rag_clip.files.labels import labels_to_document
from rag_clip.files.prompts import read_prompts
from rag_clip.prompts.templates import template_prompts


@dataclass(frozen=True, slots=True)
class PromptFile:
    """Prompts with the file that they were read from, and the name that their runs get."""

    name: str
    path: Path
    prompts: Prompts


@dataclass(frozen=True, slots=True)
class TextRow:
    """Text features in a features file: row number `row`, with the encoder's `scale`; `known` if its template is."""

    name: str
    row: int
    scale: float
    known: bool


@dataclass(frozen=True, slots=True)
class ChosenTexts:
    """Prompts of the same classes, among which the images of a task choose the texts of each class."""

    files: tuple[PromptFile, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is planned: texts on a task, alone or with a head.

    name: of the run in results.
    tier: the information that it uses (see tiers).
    key: a hash of everything that its numbers depend on.
    settings: how it is made, for readers of the results.
    texts: a prompts file, several to choose from, or text features of the task's file.
    head: the head; None for the texts alone.
    refine: whether all images of the task are evidence for each.
    hub_bank: the images by which the logits of the texts are corrected; None for none.
    """

    name: str
    tier: str
    key: str
    settings: RunSettings
    texts: PromptFile | TextRow | ChosenTexts
    head: HeadChoice | None = None
    refine: bool = False
    hub_bank: HubBank | None = None

    @property
    def texts_alone(self) -> bool:
        """Whether the classifier is that of the texts as they are."""
        return self.head is None and not self.refine and self.hub_bank is None


def read_prompt_files(paths: Sequence[str | Path]) -> list[PromptFile]:
    """Read prompts files; the name of each is its file name without "prompts-", with the folder if names repeat.

    Files with different classes may have the same name: they belong to different tasks, where runs then have the same
    name. Raises ValueError for no file, for two of the same name and classes, and for a file that is not prompts.
    """
    if not paths:
        raise ValueError("there is nothing to evaluate; give at least one prompts file")
    places = [Path(path) for path in paths]
    read = [read_prompts(place) for place in places]
    classes = [frozenset(prompts.labels.names) for prompts in read]
    short = [(place.stem.removeprefix("prompts-"), of) for place, of in zip(places, classes, strict=True)]
    names = [
        name if short.count((name, of)) == 1 else f"{place.parent.name}/{name}"
        for place, (name, of) in zip(places, short, strict=True)
    ]
    pairs = list(zip(names, classes, strict=True))
    repeated = next((name for name, of in pairs if pairs.count((name, of)) > 1), None)
    if repeated:
        raise ValueError(f"two prompts files would both be called {repeated!r}; rename one")
    return [PromptFile(*each) for each in zip(names, places, read, strict=True)]


def unused_prompts(texts: Sequence[PromptFile], tasks: Sequence[ImageTask]) -> list[PromptFile]:
    """Return the prompts files whose classes are those of no task, so that no run evaluates them."""
    task_classes = {frozenset(task.labels.names) for task in tasks}
    return [file for file in texts if frozenset(file.prompts.labels.names) not in task_classes]


def plan_runs(
    task: ImageTask,
    texts: Sequence[PromptFile],
    heads: Sequence[HeadChoice],
    *,
    encoder: Fingerprint | None,
    others: Mapping[str, Fingerprint] | None = None,
    index: str | None = None,
    choose: bool = False,
) -> list[Run]:
    """List the runs of a task: each prompts file of its classes alone and with each head, then its own text features.

    task: the task.
    texts: prompts files; those of other classes are skipped. If there is none, and the task's file has no text
        features, the task's templates are evaluated.
    heads: the heads to build beside each prompts file.
    encoder: the encoder of images and prompts; None to evaluate text features of a file only.
    others: additional encoders by name, for heads that need one.
    index: the index whose vectors are used for the captions that prompts quote; they are rounded, so it is in the key.
    choose: add a run of the texts that images choose, where several prompts files have the classes of the task.

    Raises ValueError if no text has the classes of the task, for prompts without an encoder, and for heads that need an
    additional encoder if there is none.
    """
    fitting = [file for file in texts if set(file.prompts.labels.names) == set(task.labels.names)]
    own = _text_rows(task) if task.holds_features else []
    if not texts and not own:
        if encoder is None:
            raise ValueError(
                f"there are no prompts to measure on {task.name}; name the model, to measure its templates, or give "
                "files of `rag-clip enhance`"
            )
        fitting = [PromptFile("templates", Path(f"{task.name}: templates"), template_prompts(task.labels))]
    if not fitting and not own:
        raise ValueError(
            f"no prompts file has the {counted(len(task.labels), 'class')} of {task.name}; enhance its label set"
        )
    if fitting and encoder is None:
        raise ValueError(f"the prompts of {fitting[0].path} must be encoded; name the model")
    decides = [version("rag-clip"), FORMAT, task.digest]
    beside = [_beside(head, task.labels, others_of(head.name, others or {})) for head in heads if fitting]
    alone = [_run(task, file, encoder, decides, index) for file in fitting if encoder]
    prompted = (run for each in alone for run in (each, *(with_head(each) for with_head in beside)))
    chosen = [_chosen_run(alone, fitting)] if choose and len(alone) > 1 else []
    return [*prompted, *chosen, *(_text_run(task, row, decides) for row in own)]


def _chosen_run(alone: Sequence[Run], files: Sequence[PromptFile]) -> Run:
    first = max(alone, key=lambda run: run.tier)
    names = ", ".join(file.name for file in files)
    settings = replace(
        first.settings,
        prompts=PromptFacts(", ".join(str(file.path) for file in files), f"chosen among {names}"),
        tuned="The images measured here, without their labels, chose the texts of each class.",
    )
    key = hash_facts(["chosen", *(run.key for run in alone)])
    return Run("chosen by images", with_batch(first.tier), key, settings, ChosenTexts(tuple(files)))


def with_candidates(run: Run, task: ImageTask, candidates: Candidates | None) -> Run:
    """Return a run with the candidate names in its key and settings; only prompts files without a head use them.

    Raises ValueError if every candidate is the name of a class.
    """
    if candidates is None or not run.texts_alone or not isinstance(run.texts, PromptFile):
        return run
    rivals = rivals_of(with_synonyms(run.texts.prompts.labels, task.labels), candidates)
    left_out = len(candidates.names) - len(rivals.rows)
    facts = CandidateFacts(candidates.place, len(candidates.names), left_out)
    settings = replace(run.settings, candidates=facts)
    return replace(run, key=hash_facts([run.key, candidates.digest]), settings=settings)


def _text_rows(task: ImageTask) -> list[TextRow]:
    features = task.read_features() if _is_npz(task) else None
    if features is None or features.text is None:
        return []
    scale = task.scale if task.scale is not None else features.scale
    if scale is None:
        raise ValueError(
            f"{task.paths[0]} does not record the scale of its encoder; give it (--scale 100 for OpenAI's CLIP; in "
            "Python, the scale of its ImageTask)"
        )
    names = [*features.templates, *(f"text {row}" for row in range(len(features.templates), len(features.text)))]
    named = [name if names.count(name) == 1 else f"{name} ({row})" for row, name in enumerate(names)]
    return [TextRow(name, row, scale, known=row < len(features.templates)) for row, name in enumerate(named)]


def _is_npz(task: ImageTask) -> bool:
    return Path(place_of(task.paths[0])).suffix.lower() == ".npz"


def _text_run(task: ImageTask, text: TextRow, decides: Sequence[object]) -> Run:
    settings = RunSettings(
        task=_task_facts(task),
        prompts=PromptFacts(str(task.paths[0]), "text features of the file", row=text.row),
        scale=text.scale,
        tuned="Nothing was tuned: image and text features are those of the file.",
    )
    return Run(text.name, "T0" if text.known else "T?", hash_facts([*decides, text.row, text.scale]), settings, text)


def _task_facts(task: ImageTask) -> TaskFacts:
    return TaskFacts(
        files=tuple(place_of(path) for path in task.paths),
        image_column=task.image_column,
        label_column=task.label_column,
        classes=len(task.labels),
        metric=task.metric,
    )


def _run(task: ImageTask, texts: PromptFile, encoder: Fingerprint, decides: Sequence[object], index: str | None) -> Run:
    prompts, recorded = texts.prompts, texts.prompts.recorded
    vectors = index if any(text.evidence for group in prompts.texts for text in group) else None
    settings = RunSettings(
        task=_task_facts(task),
        prompts=PromptFacts(str(texts.path), recorded.method, recorded.settings, recorded.index),
        encoder=encoder,
        vectors=vectors or None,
        tuned=tuning(None),
    )
    content = [[asdict(text) for text in group] for group in prompts.texts]
    average = [recorded.average] if recorded.average != "vectors" else []
    key = hash_facts([*decides, content, labels_to_document(prompts.labels), encoder.identity, vectors, *average])
    return Run(texts.name, tier_of(prompts), key, settings, texts)


def _beside(head: HeadChoice, labels: LabelSet, others: Mapping[str, Fingerprint]) -> Callable[[Run], Run]:
    """Return a function that adds `head` to a run of texts alone; the head's files are read once."""
    facts = head_facts(head, labels, others)
    files = [identify(path).facts for path in (head.support, head.validation) if path]
    marks = {name: each.identity for name, each in others.items()}

    def with_head(alone: Run) -> Run:
        assert isinstance(alone.texts, PromptFile), "heads on a support file are measured beside prompts"
        return replace(
            alone,
            name=f"{alone.name} + {head.name}",
            tier=tier_of(alone.texts.prompts, facts),
            key=hash_facts([alone.key, head.name, facts.settings, files, marks]),
            settings=replace(alone.settings, head=facts, tuned=tuning(facts)),
            head=head,
        )

    return with_head
