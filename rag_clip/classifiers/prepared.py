"""Prepare a head for a classifier: read and check its support and validation files, and encode what they lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from rag_clip.classifiers.anchored import EvidenceSettings, anchored
from rag_clip.classifiers.floor import floored_whole
from rag_clip.classifiers.heads import (
    DEFAULT_HEAD,
    HEADS,
    HeadSettings,
    build_head,
    describe_settings,
    head_name,
    head_settings,
)
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.display import counted
from rag_clip.files.evidence import ClassEvidence, check_evidence_labels, is_evidence, read_evidence
from rag_clip.files.support import check_support_labels, read_support, read_support_images
from rag_clip.models.towers import two_towers
from rag_clip.progress import ProgressEvent, Report, silent
from rag_clip.protocols import Classifier, Encoder

IMAGES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class PreparedHead:
    """A head with its support: the function that builds its classifier, and the facts that predictions record.

    `whole` builds the head as published, while `build` uses only as much of it as the evidence supports. `others` are
    the further encoders, by name, whose features the classifier needs beside those of the main one.
    """

    build: Callable[[ZeroShot], Classifier]
    facts: Mapping[str, Any]
    whole: Callable[[ZeroShot], Classifier] | None = None
    others: Mapping[str, Encoder] = field(default_factory=dict)

    def without_floor(self) -> PreparedHead:
        """Return the head as published, regardless of the evidence (see `classifiers/floor.py`)."""
        return replace(self, build=self.whole or self.build, facts={**self.facts, "floor": False}, whole=None)


def prepare_head(
    head: str | HeadSettings,
    support: str | Path,
    *,
    labels: LabelSet,
    encoder: Encoder,
    others: Mapping[str, Encoder] | None = None,
    validation: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    report: Report = silent,
) -> PreparedHead:
    """Return a head on a support file, for `classify`.

    head: the name of a head, or its settings as a value.
    support: the support file; for the head `evidence`, a file of evidence too.
    labels: the classes to classify.
    encoder: the encoder of the classifier.
    others: further encoders by name; their features come from the files, or from the images stored in them.
    validation: a support file of other images, on which open settings are chosen.
    options: settings that differ from the defaults, as in TOML, for a head given by name.
    report: called with the progress.

    The evidence decides how much of the head is used, which may be nothing: see `classifiers/floor.py` and
    `PreparedHead.without_floor`. Raises ValueError as `head_settings`, for files of other labels or another encoder,
    and if a further encoder needs images that the file does not contain.
    """
    settings = head_settings(head, options)
    name, others = head_name(settings), others or {}
    if HEADS[name].second_encoder and not others:
        raise ValueError(f"{name} blends features of several encoders; name a second one, such as timm:NAME")
    evidence = _read_evidence(support, settings, labels, encoder) if is_evidence(support) else None
    training = _read(support, labels, encoder, others, report) if evidence is None else None
    if training is not None and HEADS[name].reads_images:
        pixels = two_towers(encoder).to_pixels(_images(support, encoder))
        training = replace(training, pixels=pixels)
    judged = None
    if validation is not None:
        rows = _read(validation, labels, encoder, others, report)
        truth = rows.targets if rows.several else rows.shares.argmax(1)
        judged = Validation(Features(rows.features, others=rows.others), labels, truth)
    if training is not None:
        build, whole = (
            build_head(settings, training, encoder=encoder, validation=judged, floor=floor, report=report)
            for floor in (True, False)
        )
        images, missing, provenance = len(training), training.missing, training.provenance
    elif evidence is not None:
        build, whole = _of_evidence(evidence, judged)
        images, missing, provenance = sum(evidence.images.values()), evidence.missing, evidence.provenance
    facts = {
        "name": name,
        "settings": describe_settings(head, options),
        "floor": not HEADS[name].reads_images,
        "support": {"path": str(support), "images": images, "missing": len(missing), **provenance},
        "validation": {"path": str(validation), "images": len(judged.targets)} if judged else {},
    }
    return PreparedHead(build, facts, whole, others)


def default_head(support: str | Path) -> str:
    """Return the name of the head that is used where none is named."""
    return "evidence" if is_evidence(support) else DEFAULT_HEAD


def check_head_reads(name: str, support: str | Path) -> None:
    """Raise ValueError for a file of evidence and a head that needs the images themselves."""
    if is_evidence(support) and HEADS[name].settings is not EvidenceSettings:
        raise ValueError(
            f"{support} holds sums of images, and {name} needs the images themselves; use the head evidence, or a "
            "support file"
        )


def _read_evidence(path: str | Path, settings: HeadSettings, labels: LabelSet, encoder: Encoder) -> ClassEvidence:
    check_head_reads(head_name(settings), path)
    if settings != EvidenceSettings():
        raise ValueError(f"the images in {path} were weighed when it was made; leave the settings of the head out")
    evidence = read_evidence(path, encoder=encoder.fingerprint)
    check_evidence_labels(path, evidence, labels)
    return evidence.arrange(labels).to(encoder.device)


def _of_evidence(
    evidence: ClassEvidence, validation: Validation | None
) -> tuple[Callable[[ZeroShot], Classifier], Callable[[ZeroShot], Classifier]]:
    def whole(zero_shot: ZeroShot) -> Classifier:
        return anchored(zero_shot, evidence)

    return lambda zero_shot: floored_whole(zero_shot, whole(zero_shot), validation), whole


def _read(
    path: str | Path, labels: LabelSet, encoder: Encoder, others: Mapping[str, Encoder], report: Report
) -> Support:
    support = read_support(path, encoder=encoder.fingerprint)
    check_support_labels(path, support, labels)
    support = support.arrange(labels)
    moved = {name: rows.to(encoder.device) for name, rows in support.others.items()}
    lacking = {name: other for name, other in others.items() if name not in moved}
    if lacking:
        moved |= {name: _encode(other, _images(path, other), report) for name, other in lacking.items()}
    return replace(
        support,
        features=support.features.to(encoder.device),
        targets=support.targets.to(encoder.device),
        relevance=support.relevance.to(encoder.device),
        others=moved,
    )


def _images(path: str | Path, encoder: Encoder) -> list[bytes]:
    images = read_support_images(path)
    stored = [image for image in images if image is not None]
    if len(stored) < len(images):
        raise ValueError(
            f"{path} holds {len(stored)} of its {counted(len(images), 'image')}, and {encoder.name} must see each; "
            "make it again with --with-images, which `rag-clip support shots` and `synthesise` know"
        )
    return stored


@torch.no_grad()
def _encode(encoder: Encoder, images: list[bytes], report: Report) -> torch.Tensor:
    parts = []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        parts.append(encoder.encode_images(images[start : start + IMAGES_AT_ONCE]).pooled.float())
        report(ProgressEvent("encode support", min(start + IMAGES_AT_ONCE, len(images)), len(images)))
    return torch.cat(parts)
