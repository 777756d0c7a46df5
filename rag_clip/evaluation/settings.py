"""What a run was made of, as values; they are JSON in files alone (`settings_to_document`, `read_settings`)."""

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
    """The files that were measured on, their columns, how many classes there are, and the metric that ranks runs."""

    files: tuple[str, ...]
    image_column: str
    label_column: str = "label"
    classes: int
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True)
class PromptFacts:
    """Where the texts come from: a prompts file with what it records, or `row` of the text features in a file."""

    path: str = ""
    method: Any = None
    settings: Any = None
    index: Any = None
    row: int | None = None


@dataclass(frozen=True, slots=True)
class SupportFacts:
    """A support file, its images, and how many classes have none."""

    path: str
    images: int
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFacts:
    """A head, with its settings as they were given, and the images it was built on.

    They are those of a `support` file, of which `origins` counts the kinds, or `shots` of each class (or "all"), drawn
    `seeds` times from the file `shots_from`. `validation` says what chose open settings, empty for nothing; `others`
    are further encoders.
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
    """Where names beside the classes come from, how many there are, and how many were left out as names of classes."""

    place: str
    names: int
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What is measured and how, known before anything is; `tuned` says in words what was chosen on which images.

    `vectors` is the index whose vectors stand for captions, `scale` that of text features in a file. `low_high` says
    what bounds are, where they are not 95 % intervals over images.
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


@dataclass(frozen=True, slots=True)
class Unusable:
    """How many images could not be used, and why: the reason of each row, of the first ones."""

    failed: int = 0
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """How many images were measured, and why others could not be.

    Of shots, `drawn` are the images of each draw, and `train` what of the train split could not be used.
    """

    images: int = 0
    failed: int
    reasons: Mapping[str, str]
    drawn: tuple[int, ...] | None = None
    train: Unusable | None = None


def settings_to_document(settings: RunSettings, counts: ImageCounts) -> dict[str, Any]:
    """Return what a file keeps of a run, as one JSON object; what a run does not have is left out."""
    document = asdict(settings) | asdict(counts)
    document["prompts"] = _prompts_document(settings.prompts)
    document["head"] = head_to_document(settings.head) if settings.head else {}
    return {key: value for key, value in document.items() if value is not None}


def head_to_document(head: HeadFacts) -> dict[str, Any]:
    """Return the facts of a head as plain values."""
    return {key: value for key, value in asdict(head).items() if value is not None}


def _prompts_document(prompts: PromptFacts) -> dict[str, Any]:
    known = ("path", "method", "settings", "index") if prompts.row is None else ("path", "method", "row")
    return {name: getattr(prompts, name) for name in known}


def read_settings(document: Mapping[str, Any]) -> tuple[RunSettings, ImageCounts]:
    """Return the settings and counts that a file keeps; raises ValueError where one is missing or of another type."""
    content = json.dumps({**document, "head": document.get("head") or None})
    settings, counts = _adapters()
    return settings.validate_json(content, strict=True), counts.validate_json(content, strict=True)


@cache
def _adapters() -> tuple[TypeAdapter[RunSettings], TypeAdapter[ImageCounts]]:
    return TypeAdapter(RunSettings), TypeAdapter(ImageCounts)
