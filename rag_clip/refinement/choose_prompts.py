"""The choice among several sets of prompts, class by class, by the unlabelled images of a file: see `choose_texts`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rag_clip.classifiers.zero_shot import ZeroShot, averages_cosines
from rag_clip.data import Prompts
from rag_clip.display import counted
from rag_clip.refinement.choose_texts import choose_texts

LEAST_IMAGES, IMAGES_A_CLASS, MOST_IMAGES = 2500, 10, 10_000


@dataclass(frozen=True, slots=True, eq=False)
class ChosenPrompts:
    """The prompts that images chose, and the classifier of their texts."""

    prompts: Prompts
    classifier: ZeroShot


def images_to_choose(classes: int) -> int:
    """Return how many images of a file are enough to choose among texts of so many classes."""
    return min(max(LEAST_IMAGES, IMAGES_A_CLASS * classes), MOST_IMAGES)


def align_prompts(candidates: Mapping[str, Prompts]) -> dict[str, Prompts]:
    """Return the prompts with their classes in the order of the first.

    Raises ValueError for none, for prompts of other classes, and for prompts of which some average vectors and others
    cosines.
    """
    if not candidates:
        raise ValueError("there are no prompts to choose from; give at least one set")
    first, *rest = candidates
    labels = candidates[first].labels
    for name in rest:
        missing = [each for each in labels.names if each not in set(candidates[name].labels.names)]
        if missing or len(candidates[name].labels) != len(labels):
            example = f", such as {missing[0]!r}" if missing else ""
            raise ValueError(
                f"{name} has other classes than {first}{example}; choose among prompts of the same classes"
            )
        if averages_cosines(candidates[name]) != averages_cosines(candidates[first]):
            raise ValueError(
                f"one of {first} and {name} averages vectors and the other cosines; choose among prompts of one kind"
            )
    return {name: _arranged(prompts, labels.names) for name, prompts in candidates.items()}


def _arranged(prompts: Prompts, names: Sequence[str]) -> Prompts:
    if prompts.labels.names == tuple(names):
        return prompts
    place = {name: row for row, name in enumerate(prompts.labels.names)}
    rows = [place[name] for name in names]
    columns = ("names", "ids", "synonyms", "groups")
    labels = replace(
        prompts.labels, **{column: tuple(getattr(prompts.labels, column)[row] for row in rows) for column in columns}
    )
    return replace(prompts, labels=labels, texts=tuple(prompts.texts[row] for row in rows))


def choose_prompts(
    candidates: Mapping[str, Prompts], classifiers: Sequence[ZeroShot], images: torch.Tensor
) -> ChosenPrompts:
    """Choose the texts of each class among prompts of the same classes, by images without labels.

    candidates: aligned prompts (see `align_prompts`) by name.
    classifiers: those of the candidates, in the same order.
    images: unit features [n, d], a sample of the file.

    The provenance of the result says under `chosen` what the images decided: the score of each candidate (mean
    log-likelihood of an image, divided by 50), how many classes have its texts, and the classes that differ from the
    candidate with the best score, with what that gained.
    """
    names = list(candidates)
    first = candidates[names[0]]
    if len(names) == 1:
        return ChosenPrompts(first, classifiers[0])
    choice = choose_texts(images, [each.weights for each in classifiers], scale=classifiers[0].scale)
    of_class: list[int] = choice.of_class.tolist()
    texts = tuple(candidates[names[number]].texts[row] for row, number in enumerate(of_class))
    weights = torch.stack([classifiers[number].weights[row] for row, number in enumerate(of_class)])
    counts = Counter(of_class)
    changed = {
        first.labels.names[row]: {"texts": names[number], "gain": round(float(choice.gains[row]), 3)}
        for row, number in enumerate(of_class)
        if number != choice.best
    }
    facts = {
        "images": choice.images,
        "best": names[choice.best],
        "scores": {name: round(score, 4) for name, score in zip(names, choice.scores, strict=True)},
        "classes": {name: counts[number] for number, name in enumerate(names)},
        "changed": changed,
    }
    best = candidates[names[choice.best]]
    provenance = {
        **best.provenance,
        "method": "chosen",
        "settings": {name: dict(candidates[name].provenance) for name in names},
        "index": next((place for each in candidates.values() if (place := each.recorded.index)), ""),
        "chosen": facts,
    }
    prompts = Prompts(best.labels, texts, provenance)
    return ChosenPrompts(prompts, replace(classifiers[choice.best], labels=prompts.labels, weights=weights))


def describe_choice(facts: Mapping[str, Any], classes: int) -> str:
    """Return in one line which texts images chose, for what the provenance of prompts says under `chosen`."""
    texts = ", ".join(f"{name} for {count}" for name, count in facts["classes"].items())
    return f"{counted(facts['images'], 'image')} chose the texts of {texts} of {counted(classes, 'class')}"
