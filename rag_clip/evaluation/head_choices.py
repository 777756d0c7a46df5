"""The heads that are measured on a support file: their settings, their facts, and how they were tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_clip.classifiers.heads import HEADS, check_on_features, describe_settings, head_settings
from rag_clip.classifiers.prepared import check_head_reads
from rag_clip.data import Fingerprint, LabelSet
from rag_clip.evaluation.settings import HeadFacts, SupportFacts
from rag_clip.files.evidence import check_evidence_labels, is_evidence, read_evidence
from rag_clip.files.support import check_support_labels, read_support


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """A head by name on a support file; `options` are its settings, `validation` a support file to choose them on.

    With `floor`, only as much of the head is used as held-out images support.
    """

    name: str
    support: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    validation: Path | None = None
    floor: bool = True


def choose_heads(
    names: Sequence[str],
    *,
    support: Path | None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    validation: Path | None = None,
    floor: bool = True,
) -> list[HeadChoice]:
    """Return the heads by name on a support file.

    names: the names of the heads.
    support: the support file.
    options: settings by head.
    validation: a support file on which open settings are chosen.
    floor: use only as much of each head as held-out images support.

    Raises ValueError as `check_heads`, and for heads without a support file.
    """
    options = options or {}
    check_heads(names, options)
    if support is None:
        if names:
            raise ValueError(f"the head {names[0]!r} needs a support file; give one")
        return []
    return [HeadChoice(name, support, options.get(name, {}), validation, floor) for name in names]


def check_heads(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError for unknown or repeated heads, or their options, and for heads that encode images themselves."""
    for name in names:
        head_settings(name, options.get(name, {}))
        check_on_features(name)
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise ValueError(f"the head {repeated!r} is named twice; name it once")
    idle = [name for name in options if name not in names]
    if idle:
        raise ValueError(
            f"there are settings for {idle[0]!r}, which is none of the heads to measure; add it, or cut it"
        )


def others_of(head: str, others: Mapping[str, Fingerprint]) -> Mapping[str, Fingerprint]:
    """Return the further encoders that a head needs; raises ValueError if it needs one and there is none."""
    if not HEADS[head].second_encoder:
        return {}
    if not others:
        raise ValueError(f"{head} needs the images' features by a second encoder too; name one")
    return others


def head_facts(head: HeadChoice, labels: LabelSet, others: Mapping[str, Fingerprint]) -> HeadFacts:
    """Return the facts of a head; raises as `read_support`, and for files of other classes."""
    if head.validation:
        check_support_labels(head.validation, read_support(head.validation), labels)
    origins, missing = _origins(head, labels)
    return HeadFacts(
        name=head.name,
        settings=describe_settings(head.name, head.options),
        floor=head.floor,
        support=SupportFacts(str(head.support), sum(origins.values()), missing),
        origins=origins,
        validation=str(head.validation) if head.validation else "",
        others=tuple(sorted(others)),
    )


def _origins(head: HeadChoice, labels: LabelSet) -> tuple[dict[str, int], int]:
    """Return the number of support images of each origin, and of classes without one."""
    if is_evidence(head.support):
        check_head_reads(head.name, head.support)
        evidence = read_evidence(head.support)
        check_evidence_labels(head.support, evidence, labels)
        return dict(sorted(evidence.images.items())), len(evidence.missing)
    support = read_support(head.support)
    check_support_labels(head.support, support, labels)
    return {origin: support.origin.count(origin) for origin in sorted(set(support.origin))}, len(support.missing)


def tuning(head: HeadFacts | None) -> str:
    """Return a sentence on what was chosen, and on which images; `head` is None for prompts alone."""
    end = "No label of the images measured here was used."
    if head is None:
        return f"Nothing was tuned: the settings are those of the recipe as given. {end}"
    open_settings = [name for name, value in head.settings.items() if value is None]
    origins = ", ".join(f"{count} {origin}" for origin, count in (head.origins or {}).items())
    trained = "trained" if HEADS[head.name].trains else "built"
    images = head.support.images if head.support else 0
    built = f"{head.name} was {trained} on {images} support images ({origins})"
    if head.validation:
        return f"{built}; its open settings were chosen on the images of {head.validation}. {end}"
    if open_settings:
        return f"{built}; {', '.join(open_settings)}: as published, or by leave-one-out on these images. {end}"
    return f"{built}, with its settings as given. {end}"
