"""Heads on few shots: drawn several times, each draw measured alone, the numbers reported over the draws.

Shots come from the train split of a task. A task without one gives them itself, and its other images are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Fingerprint
from rag_clip.evaluate.protocol import draw_from_whole, draw_shots, inner_split
from rag_clip.evaluate.splits import Test, Train
from rag_clip.heads import HEADS, build_head
from rag_clip.protocols import Encoder

from .measures import classify_test, measure
from .results import Measure, Result
from .runs import Run, check_heads
from .tasks import ImageTask, Measured, digest, file_identity

BOUNDS = "the mean over the draws -/+ their sample standard deviation"


@dataclass(frozen=True, slots=True)
class FewShot:
    """Heads to measure on `shots` images of each class, each number of them drawn `seeds` times.

    `options` are settings by head. With `validate`, the first fifth of each class is held out of training and chooses
    the settings. Raises ValueError for no or unknown heads, options of others, counts below one, and one shot to train
    and choose by.
    """

    heads: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: int = 3
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    validate: bool = False

    def __post_init__(self) -> None:
        check_heads(self.heads, self.options)
        if not self.heads or not self.shots:
            raise ValueError("few shots need a head and a number of shots; name at least one of each")
        if min(*self.shots, self.seeds) < 1:
            raise ValueError(f"shots are {self.shots} and seeds {self.seeds}; give one at least")
        if self.validate and min(self.shots) < 2:
            raise ValueError("of one shot per class none can be held out to choose by; draw two, or do not validate")


@dataclass(frozen=True, slots=True)
class ShotRun:
    """A head on so many shots beside the texts of `alone`; the rest as of a Run."""

    name: str
    tier: str
    key: str
    settings: Mapping[str, Any]
    alone: Run
    head: str
    shots: int
    protocol: FewShot


def plan_shots(
    task: ImageTask,
    runs: Sequence[Run],
    protocol: FewShot | None,
    *,
    encoder: Fingerprint | None,
    others: Mapping[str, Fingerprint],
) -> list[Run | ShotRun]:
    """List the runs of a task, after each of texts alone those of few shots, if there is a protocol.

    Raises FileNotFoundError for a train split that is missing, ValueError for one that is the test split.
    """
    if protocol is None:
        return [*runs]
    if task.train and task.train.resolve() in [path.resolve() for path in task.paths]:
        raise ValueError(f"{task.name} would draw its shots from the images it tests on, {task.train}; split the file")
    planned: list[Run | ShotRun] = []
    for run in runs:
        planned += [run, *(_beside(task, run, protocol, encoder, others) if run.head is None else ())]
    return planned


def _beside(
    task: ImageTask, alone: Run, protocol: FewShot, encoder: Fingerprint | None, others: Mapping[str, Fingerprint]
) -> Iterator[ShotRun]:
    marks = [encoder and asdict(encoder), {name: asdict(each) for name, each in others.items()}]
    for head in protocol.heads:
        second = sorted(others) if HEADS[head].second_encoder else []
        facts = {
            "name": head,
            "settings": {**HEADS[head].settings, **protocol.options.get(head, {})},
            "shots_from": str(task.train or task.paths[0]),
            "seeds": protocol.seeds,
            "validation": "the first fifth of each class of the shots" if protocol.validate else "",
            "others": second,
        }
        tier = "+".join([alone.tier, *(["T3"] if second else []), "FS"])
        for shots in protocol.shots:
            settings = {
                **alone.settings,
                "head": {**facts, "shots": shots},
                "low_high": BOUNDS,
                "tuned": _tuning(task, head, shots, protocol),
            }
            decides = ["few shots", alone.key, task.train and file_identity(task.train), facts, shots, marks]
            name = f"{alone.name} + {head}, {shots} shots"
            yield ShotRun(name, tier, digest(decides), settings, alone, head, shots, protocol)


def read_pool(task: ImageTask, read: Callable[[ImageTask], Measured]) -> Train | None:
    """Read the images of the train split by `read`, None where the task has none."""
    if task.train is None:
        return None
    held = read(replace(task, paths=(task.train,), train=None, metric="accuracy")).test
    return Train(held.features, held.labels, held.truth)


def measure_shots(
    task: ImageTask, run: ShotRun, alone: ZeroShot, images: Measured, pool: Train | None, *, encoder: Encoder | None
) -> Result:
    """Draw, build and measure the head of a run for each of its seeds; return the numbers over the seeds.

    Shots are drawn from `pool`, or from `images` where that is None; raises ValueError where those are too few, or have
    several labels each.
    """
    drawn, count = [], 0
    for seed in range(run.protocol.seeds):
        train, test = _draw(images.test, pool, shots=run.shots, seed=seed)
        train, held = inner_split(train) if run.protocol.validate else (train, None)
        options = run.protocol.options.get(run.head, {})
        build = build_head(run.head, train.support(), encoder=encoder, options=options, validation=held)
        logits = classify_test(build(_ordered(alone, train)), test)
        drawn.append(measure(logits, test.truth, task.labels, metric=task.metric))
        count = len(test)
    settings = {**run.settings, "images": count, "failed": images.failed}
    return Result(task.name, run.name, run.tier, run.key, settings, over_draws(drawn))


def over_draws(drawn: Sequence[Sequence[Measure]]) -> tuple[Measure, ...]:
    """Return the mean of every number -/+ its sample standard deviation; no bounds for what was measured once."""
    values: dict[tuple[str, str], list[float]] = {}
    for one in (each for measures in drawn for each in measures):
        values.setdefault((one.metric, one.item), []).append(one.value)
    found = []
    for (metric, item), held in values.items():
        mean, spread = fmean(held), stdev(held) if len(held) > 1 else None
        bounds = (None, None) if spread is None else (mean - spread, mean + spread)
        found.append(Measure(metric, item, mean, *bounds))
    return tuple(found)


def _draw(test: Test, pool: Train | None, *, shots: int, seed: int) -> tuple[Train, Test]:
    if pool is not None:
        return draw_shots(pool, shots=shots, seed=seed), test
    if test.truth.ndim == 2:
        raise ValueError("images with several labels give no shots; name a train split of one label each")
    return draw_from_whole(test.features, test.labels, test.truth, shots=shots, seed=seed)


def _ordered(alone: ZeroShot, train: Train) -> ZeroShot:
    """Return the classifier with its classes in the order of the train split's, on its device."""
    places = [alone.labels.names.index(name) for name in train.labels.names]
    return replace(alone, labels=train.labels, weights=alone.weights[places].to(train.features.pooled.device))


def _tuning(task: ImageTask, head: str, shots: int, protocol: FewShot) -> str:
    place = f"from {task.train}" if task.train else f"from {task.paths[0]} itself, whose other images were measured"
    chosen = (
        "its open settings were chosen on the first fifth of each class, held out of training"
        if protocol.validate
        else "its open settings are as published, or were chosen within these images"
    )
    trained = "trained" if HEADS[head].trains else "built"
    return (
        f"{head} was {trained} on {shots} images of each class, drawn {protocol.seeds} times {place}; {chosen}. Bounds "
        f"are {BOUNDS}. No label of the images measured here was used."
    )
