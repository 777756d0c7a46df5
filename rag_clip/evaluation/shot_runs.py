"""Few-shot runs: heads built on numbers of shots, beside the runs of the texts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rag_clip.classifiers.heads import HEADS, check_encoder, describe_settings
from rag_clip.classifiers.hubs import HubBank
from rag_clip.data import Fingerprint
from rag_clip.evaluation.head_choices import HeadChoice, check_heads, others_of
from rag_clip.evaluation.image_tasks import ImageTask, place_of
from rag_clip.evaluation.open_runs import OpenRun, open_run
from rag_clip.evaluation.rival_names import Candidates
from rag_clip.evaluation.runs import PromptFile, Run, plan_runs
from rag_clip.evaluation.settings import HeadFacts, RunSettings, head_to_document
from rag_clip.evaluation.tiers import with_batch, with_corpus, with_second
from rag_clip.files.identity import hash_facts, identify
from rag_clip.protocols import Encoder

Shots = int | Literal["all"]
ALL: Literal["all"] = "all"
BOUNDS = "the mean over the draws -/+ their sample standard deviation, within the range of the metric"


@dataclass(frozen=True, slots=True)
class FewShot:
    """Heads to evaluate on drawn shots.

    heads: the names of the heads.
    shots: numbers of images per class, or "all".
    seeds: how often each number is drawn; "all" is taken once.
    options: settings by head.
    validate: hold out the first fifth of each class from training, and choose settings on it.
    floor: limit the use of a head to what held-out images support (see classifiers.floor).

    Raises ValueError as `check_heads` does, for no heads, for numbers below one or repeated, and for `validate` with
    one shot.
    """

    heads: tuple[str, ...]
    shots: tuple[Shots, ...]
    seeds: int = 3
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    validate: bool = False
    floor: bool = True

    def __post_init__(self) -> None:
        check_heads(self.heads, self.options)
        if not self.heads or not self.shots:
            raise ValueError("few shots need a head and a number of shots; name at least one of each")
        if len(set(self.shots)) < len(self.shots):
            raise ValueError(f"shots are {self.shots}, one of them twice; give each number once")
        if min([self.seeds, *self.counts]) < 1:
            raise ValueError(f"shots are {self.shots} and seeds {self.seeds}; give numbers of at least 1")
        if self.validate and 1 in self.counts:
            raise ValueError(
                "with one shot per class none can be held out for validation; draw two, or do not validate"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of shots, without "all"."""
        return tuple(count for count in self.shots if count != ALL)


@dataclass(frozen=True, slots=True)
class ShotRun:
    """A run of a head on `shots` images per class, drawn `draws` times, with the texts of `alone`; else as a Run.

    With `refine`, the images that a draw is measured on, without their labels, are evidence for each of them.
    """

    name: str
    tier: str
    key: str
    settings: RunSettings
    alone: Run
    head: str
    shots: Shots
    protocol: FewShot
    refine: bool = False

    @property
    def draws(self) -> int:
        """The number of draws."""
        return 1 if self.shots == ALL else self.protocol.seeds


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads to measure beside every text: on support files, on shots drawn from the tasks, or both.

    `others` are further encoders, by name, for the heads that need one. With `choose` there is a run of the texts that
    the images of a task, without labels, choose among the prompts (see refinement.choose_texts). With `refine`, each
    run has one beside it in which all measured images are evidence for each (see refinement.batch). With `negatives`,
    names of other things, each run of prompts alone has one in which classes are held out (see open_runs); with a
    `hub_bank`, one whose logits it corrects (see classifiers.hubs).
    """

    choices: Sequence[HeadChoice] = ()
    few_shot: FewShot | None = None
    others: Mapping[str, Encoder] = field(default_factory=dict)
    choose: bool = False
    refine: bool = False
    negatives: Candidates | None = None
    hub_bank: HubBank | None = None

    def plan(
        self, task: ImageTask, texts: Sequence[PromptFile], *, encoder: Fingerprint | None, index: str | None = None
    ) -> list[Run | ShotRun | OpenRun]:
        """List the runs of a task: see `plan_runs`, `plan_shots` and `open_run`."""
        others = {name: each.fingerprint for name, each in self.others.items()}
        runs = plan_runs(task, texts, self.choices, encoder=encoder, others=others, index=index, choose=self.choose)
        planned = plan_shots(task, runs, self.few_shot, encoder=encoder, others=others)
        listed: list[Run | ShotRun | OpenRun] = []
        for run in planned:
            listed += [run, *([refined_run(run, others)] if self.refine else [])]
            if not isinstance(run, Run) or not run.texts_alone or not isinstance(run.texts, PromptFile):
                continue
            if self.hub_bank:
                corrected = hub_run(run, self.hub_bank)
                listed += [corrected, *([refined_run(corrected, others)] if self.refine else [])]
            if self.negatives and not task.several:
                listed.append(open_run(run, self.negatives))
        return listed


NO_HEADS = Heads()


def hub_run(run: Run, bank: HubBank) -> Run:
    """Return the run whose logits are corrected by a bank of images."""
    return replace(
        run,
        name=f"{run.name} + hub",
        tier=with_corpus(run.tier),
        key=hash_facts(["hub correction", run.key, bank.facts(), bank.weight]),
        settings=replace(run.settings, hub_bank=str(bank.place)),
        hub_bank=bank,
    )


def refined_run(run: Run | ShotRun, others: Mapping[str, Fingerprint]) -> Run | ShotRun:
    """Return the run in which all measured images, by all encoders, are evidence for each beside the image alone."""
    marks = [{name: mark.identity for name, mark in others.items()}] if others else []
    return replace(
        run,
        name=f"{run.name} + refined",
        tier=with_second(with_batch(run.tier)) if others else with_batch(run.tier),
        key=hash_facts(["refined", run.key, *marks]),
        settings=replace(run.settings, refined=True, refined_with=tuple(others) or None),
        refine=True,
    )


def plan_shots(
    task: ImageTask,
    runs: Sequence[Run],
    protocol: FewShot | None,
    *,
    encoder: Fingerprint | None,
    others: Mapping[str, Fingerprint],
) -> list[Run | ShotRun]:
    """List the runs of a task, with the few-shot runs of `protocol` after each run of texts alone.

    task: the task.
    runs: its runs without shots.
    protocol: the few-shot heads; None adds no runs.
    encoder: the encoder.
    others: additional encoders by name, for heads that need one.

    Raises FileNotFoundError if the train split is missing; ValueError if it is the test split, for "all" shots of a
    task without a train split, and for heads without the encoders that they need.
    """
    if protocol is None:
        return [*runs]
    for head in protocol.heads:
        check_encoder(head, encoder)
        others_of(head, others)
    _check_pool(task, protocol)
    planned: list[Run | ShotRun] = []
    for run in runs:
        planned += [run, *(_beside(task, run, protocol, encoder, others) if run.head is None else ())]
    return planned


def _check_pool(task: ImageTask, protocol: FewShot) -> None:
    if task.train is None and ALL in protocol.shots:
        raise ValueError(
            f"{task.name} has no train split, from which all images would be drawn; name one, or give a number of shots"
        )
    if isinstance(task.train, Path) and not task.train.exists():
        raise FileNotFoundError(
            f"the train split {task.train} of {task.name} does not exist; put it there, or remove it from the task"
        )
    if task.train and Path(task.train).resolve() in [Path(place_of(path)).resolve() for path in task.paths]:
        raise ValueError(f"the train split {task.train} of {task.name} is also its test split; split the file")


def _beside(
    task: ImageTask, alone: Run, protocol: FewShot, encoder: Fingerprint | None, others: Mapping[str, Fingerprint]
) -> Iterator[ShotRun]:
    for head in protocol.heads:
        second = others_of(head, others)
        marks = [encoder and encoder.identity, {name: each.identity for name, each in second.items()}]
        facts = HeadFacts(
            name=head,
            settings=describe_settings(head, protocol.options.get(head, {})),
            floor=protocol.floor,
            shots_from=place_of(task.train or task.paths[0]),
            validation="the first fifth of each class of the shots" if protocol.validate else "",
            others=tuple(sorted(second)),
        )
        tier = "+".join([alone.tier, *(["T3"] if second else []), "FS"])
        for shots in protocol.shots:
            seeds = 1 if shots == ALL else protocol.seeds
            drawn = replace(facts, seeds=seeds, shots=shots)
            own = head_to_document(replace(drawn, shots_from=None))  # the key has the images' identity instead
            settings = replace(
                alone.settings,
                head=drawn,
                tuned=_tuning(task, head, shots, protocol),
                low_high=None if shots == ALL else BOUNDS,
            )
            decides = ["few shots", alone.key, task.train and _train_identity(task), own, marks]
            name = f"{alone.name} + {head}, {shots} shots"
            yield ShotRun(name, tier, hash_facts(decides), settings, alone, head, shots, protocol)


def _train_identity(task: ImageTask) -> object:
    """Return the identity of the images that shots are drawn from."""
    assert task.train is not None
    one_file = isinstance(task.train, Path) and task.train.is_file()
    return identify(task.train).facts if one_file else replace(task, paths=(task.train,), train=None).digest


def _tuning(task: ImageTask, head: str, shots: Shots, protocol: FewShot) -> str:
    chosen = (
        "its open settings were chosen on the first fifth of each class, held out of training"
        if protocol.validate
        else "its open settings are as published, or were chosen within these images"
    )
    trained = "trained" if HEADS[head].trains else "built"
    end = "No label of the images measured here was used."
    if shots == ALL:
        return f"{head} was {trained} on all images of {task.train}; {chosen}. {end}"
    place = (
        f"from {task.train}"
        if task.train
        else f"from {place_of(task.paths[0])} itself, whose other images were measured"
    )
    return (
        f"{head} was {trained} on {shots} images of each class, drawn {protocol.seeds} times {place}; {chosen}. Bounds "
        f"are {BOUNDS}. {end}"
    )
