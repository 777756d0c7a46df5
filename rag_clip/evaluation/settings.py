"""The settings of a run as dataclasses; files store them as JSON (`settings_to_document`, `read_settings`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from rag_clip.data import Fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """The files of a task, their columns, the number of classes, and the metric that ranks runs."""

    files: tuple[str, ...]
    image_column: str
    label_column: str = "label"
    classes: int
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """The source of texts: a prompts file with its provenance, or `row` of the text features in a file."""

    path: str = ""
    method: Any = None
    settings: Any = None
    index: Any = None
    row: int | None = None


@dataclass(frozen=True, slots=True)
class SupportFacts:
    """A support file, its number of images, and the number of classes without one."""

    path: str
    images: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """A head, and the images that it was built on: a support file, or shots.

    name, settings, floor: the head, its settings as the user gave them, and whether its use is limited by held-out
        images (see classifiers.floor).
    support, origins: the support file, and its number of images of each origin.
    shots_from, shots, seeds: the file that shots were drawn from, how many of each class (or "all"), and how often.
    validation: the images on which open settings were chosen; '' for none.
    others: names of additional encoders.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    floor: bool = True
    support: SupportFacts | None = None
    origins: Mapping[str, int] | None = None
    shots_from: str | None = None
    validation: str = ""
    others: tuple[str, ...] = ()
    seeds: int | None = None
    shots: int | str | None = None


@dataclass(frozen=True, slots=True)
class CandidateFacts:
    """The source of candidate names, their number, and the number left out because they are names of classes."""

    place: str
    names: int
    left_out: int


@dataclass(frozen=True, slots=True)
class HeldOutFacts:
    """The source of names of other things, their number, how often classes are held out, and how many each time."""

    place: str
    names: int
    draws: int
    classes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What is evaluated and how; known before the run.

    task, prompts, encoder, head, candidates: the parts of the run; None where it has no such part.
    vectors: the index whose vectors are used for captions.
    scale: the encoder's scale for text features in a file.
    tuned: a sentence that says which settings were chosen on which images.
    low_high: what the bounds are, if they are not 95 % intervals over images.
    refined: true if all images of the task are evidence for each, else None; refined_with: by which further encoders.
    hub_bank: the images by which logits are corrected, else None.
    held_out: in an open world, what is detected beside the classes, else None.
    """

    task: TaskFacts
    prompts: PromptFacts = PromptFacts()
    encoder: Fingerprint | None = None
    vectors: str | None = None
    scale: float | None = None
    head: HeadFacts | None = None
    tuned: str
    low_high: str | None = None
    candidates: CandidateFacts | None = None
    refined: bool | None = None
    refined_with: tuple[str, ...] | None = None
    hub_bank: str | None = None
    held_out: HeldOutFacts | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """The number of images that cannot be used, and the reasons by row, for the first of them."""

    failed: int = 0
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """The number of images that were measured, and why others could not be.

    images: the measured images.
    failed, reasons: as in `Unusable`.
    drawn: with shots, the number of images of each draw.
    train: with shots, the images of the train split that cannot be used.
    """

    images: int = 0
    failed: int
    reasons: Mapping[str, str]
    drawn: tuple[int, ...] | None = None
    train: Unusable | None = None


def settings_to_document(settings: RunSettings, counts: ImageCounts) -> dict[str, Any]:
    """Return the settings and counts of a run as one JSON object, without values that are None."""
    document = asdict(settings) | asdict(counts)
    document["prompts"] = _prompts_document(settings.prompts)
    document["head"] = head_to_document(settings.head) if settings.head else {}
    return {key: value for key, value in document.items() if value is not None}


def head_to_document(head: HeadFacts) -> dict[str, Any]:
    """Return the facts of a head as plain values, without those that are None."""
    return {key: value for key, value in asdict(head).items() if value is not None}


def _prompts_document(prompts: PromptFacts) -> dict[str, Any]:
    known = ("path", "method", "settings", "index") if prompts.row is None else ("path", "method", "row")
    return {name: getattr(prompts, name) for name in known}


def read_settings(document: Mapping[str, Any]) -> tuple[RunSettings, ImageCounts]:
    """Return the settings and counts in a document; raises ValueError if one is missing or has another type."""
    content = json.dumps({**document, "head": document.get("head") or None})
    settings, counts = _adapters()
    return settings.validate_json(content, strict=True), counts.validate_json(content, strict=True)


@cache
def _adapters() -> tuple[TypeAdapter[RunSettings], TypeAdapter[ImageCounts]]:
    return TypeAdapter(RunSettings), TypeAdapter(ImageCounts)
