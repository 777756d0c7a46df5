"""Evidence of the classes from several sources of images, and its `.safetensors` files.

Each source is one triple of sums (`data.Evidence`), so a file holds no image, and its size does not grow with their
number: (c + 1) d + c numbers a source. Sources are kept apart, so that one can be weighed or left out later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rag_clip.data import (
    Evidence,
    Fingerprint,
    LabelSet,
    Provenance,
    check_same_encoder,
    read_fingerprint,
    read_provenance,
)
from rag_clip.display import counted, listed
from rag_clip.files.labels import labels_from_document, labels_to_document
from rag_clip.files.regular import is_regular
from rag_clip.files.tensors import SUFFIX, check_tensors_path, read_tensors, write_tensors

METADATA = "rag_clip.evidence"
PARTS = ("counts", "sums", "squares")


@dataclass(frozen=True, slots=True, eq=False)
class ClassEvidence:
    """What several sources of images say of the same classes.

    labels: the c classes.
    sources: the evidence of each source, by name, such as shot or retrieved.
    images: how many images each source has; their evidence may count for less.
    provenance: the encoder of the features, and what the evidence was made of.

    `+` joins the sources of two, and adds those of the same name; `*` weighs all sources. Raises ValueError for no
    source, shapes that differ, numbers that are not finite, and counts or squares below zero.
    """

    labels: LabelSet
    sources: Mapping[str, Evidence]
    images: Mapping[str, int] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("the evidence has no source; give at least one")
        for name, source in self.sources.items():
            classes, width = len(self.labels), self.width
            shapes = [tuple(getattr(source, part).shape) for part in PARTS]
            if shapes != [(classes,), (classes, width), (width,)]:
                raise ValueError(
                    f"the evidence of {name!r} has the shapes {', '.join(map(str, shapes))}; expected [c], [c, d] and "
                    f"[d] with {counted(classes, 'class')} and the width {width}"
                )
            if not all(bool(getattr(source, part).isfinite().all()) for part in PARTS):
                raise ValueError(f"the evidence of {name!r} has numbers that are not finite; make it again")
            if float(source.counts.min()) < 0 or float(source.squares.min()) < 0:
                raise ValueError(f"the evidence of {name!r} has counts or squares below zero; make it again")

    @property
    def width(self) -> int:
        """The width d of the features."""
        return len(next(iter(self.sources.values())).squares)

    @property
    def recorded(self) -> Provenance:
        """The facts of the provenance."""
        return read_provenance(self.provenance)

    @property
    def total(self) -> Evidence:
        """The evidence of all sources together."""
        first, *rest = self.sources.values()
        return sum(rest, first)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the classes without an image."""
        counts: list[float] = self.total.counts.tolist()
        return tuple(name for name, count in zip(self.labels.names, counts, strict=True) if not count)

    def without(self, source: str) -> ClassEvidence:
        """Return the evidence without a source; raises ValueError for an unknown source, and for the only one."""
        if source not in self.sources:
            raise ValueError(f"the evidence has no source {source!r}; it has {listed(list(self.sources))}")
        if len(self.sources) == 1:
            raise ValueError(f"{source!r} is the only source of the evidence; without it, classify by text alone")
        kept = {name: each for name, each in self._items() if name != source}
        images = {name: count for name, count in self.images.items() if name != source}
        return replace(self, sources=kept, images=images)

    def arrange(self, labels: LabelSet) -> ClassEvidence:
        """Return the evidence with its classes in the order of `labels`, which must have the same names."""
        order = [self.labels.names.index(name) for name in labels.names]
        moved = {name: Evidence(each.counts[order], each.sums[order], each.squares) for name, each in self._items()}
        return replace(self, labels=labels, sources=moved)

    def to(self, device: torch.device | str) -> ClassEvidence:
        """Return the evidence on a device."""
        moved = {name: Evidence(*(getattr(each, part).to(device) for part in PARTS)) for name, each in self._items()}
        return replace(self, sources=moved)

    def __mul__(self, weight: float) -> ClassEvidence:
        """Return evidence that counts `weight` times; raises ValueError below zero."""
        return replace(self, sources={name: weight * each for name, each in self._items()})

    __rmul__ = __mul__

    def __add__(self, other: ClassEvidence) -> ClassEvidence:
        """Return the sources of both; raises ValueError for other classes, another width or another encoder."""
        check_evidence_labels("the evidence added", other, self.labels)
        if other.width != self.width:
            raise ValueError(f"evidence of the widths {self.width} and {other.width} does not add up; use one encoder")
        if recorded := self.recorded.encoder:
            check_evidence_encoder(other, read_fingerprint(recorded))
        sources, images = dict(self.sources), dict(self.images)
        for name, each in other.arrange(self.labels).sources.items():
            sources[name] = sources[name] + each if name in sources else each
        for name, count in other.images.items():
            images[name] = images.get(name, 0) + count
        parts = [*self.provenance.get("parts", ()), *other.provenance.get("parts", ())]
        encoder = self.recorded.encoder or other.recorded.encoder
        return ClassEvidence(self.labels, sources, images, {"encoder": encoder, "method": "evidence", "parts": parts})

    def _items(self) -> list[tuple[str, Evidence]]:
        return list(self.sources.items())

    def __repr__(self) -> str:
        named = ", ".join(f"{name} {float(each.counts.sum()):.4g}" for name, each in self._items())
        return f"ClassEvidence({counted(len(self.labels), 'class')}: {named})"


def is_evidence(path: str | Path) -> bool:
    """Return whether a path has the suffix of files of evidence, where support files have another."""
    return Path(path).suffix.lower() == SUFFIX


def write_evidence(evidence: ClassEvidence, path: str | Path) -> None:
    """Write a `.safetensors` file, replacing it only once it is complete; makes the folder if it is missing.

    Raises ValueError for another suffix, and OSError if the disk is full; an old file then stays as it was.
    """
    path = Path(path)
    check_evidence_path(path)
    facts = {
        **labels_to_document(evidence.labels),
        "sources": list(evidence.sources),
        "images": dict(evidence.images),
        "provenance": dict(evidence.provenance),
    }
    named = {f"{name}.{part}": getattr(each, part) for name, each in evidence.sources.items() for part in PARTS}
    tensors = {name: named[name].double().clone() for name in sorted(named)}
    write_tensors(tensors, path, key=METADATA, facts=facts)


def read_evidence(path: str | Path, *, encoder: Fingerprint | None = None) -> ClassEvidence:
    """Read evidence, float64 on the CPU.

    Raises ValueError, naming the file, if it is no such file, is damaged, has values that ClassEvidence refuses, or was
    made with another encoder than `encoder`; FileNotFoundError if there is no such file.
    """
    path = Path(path)
    check_evidence_path(path)
    if not is_regular(path):
        raise FileNotFoundError(f"there is no file of evidence {path}; write one with `rag-clip support evidence`")
    try:
        evidence = _read(path)
        if encoder is not None:
            check_evidence_encoder(evidence, encoder)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error
    return evidence


def check_evidence_path(path: Path) -> None:
    """Raise ValueError for a folder, and for another suffix than .safetensors."""
    check_tensors_path(path, what="evidence is in", example="evidence")


def check_evidence_labels(what: str | Path, evidence: ClassEvidence, labels: LabelSet) -> None:
    """Raise ValueError if evidence has other classes than `labels`; their order may differ."""
    foreign = sorted(set(evidence.labels.names) ^ set(labels.names))
    if foreign:
        raise ValueError(
            f"{what} has other classes ({foreign[0]!r} is in one of them only); make it for the same label set"
        )


def check_evidence_encoder(evidence: ClassEvidence, encoder: Fingerprint) -> None:
    """Raise ValueError if the features were made with another encoder; evidence that records none passes."""
    if recorded := evidence.recorded.encoder:
        advice = "make it again with this encoder"
        check_same_encoder(
            read_fingerprint(recorded), encoder, what="the evidence was made", advice=advice, of_images=True
        )


def _read(path: Path) -> ClassEvidence:
    foreign = "is not a file of evidence; write one with `rag-clip support evidence`"
    tensors, facts = read_tensors(path, key=METADATA, foreign=foreign, again="make the evidence again")
    names, images = facts.get("sources"), facts.get("images", {})
    if not isinstance(names, list) or {f"{name}.{part}" for name in names for part in PARTS} != tensors.keys():
        raise ValueError(f"has other tensors than its sources {names}; make the evidence again")
    labels = labels_from_document({key: facts.get(key) for key in ("templates", "labels")})
    sources = {name: Evidence(*(tensors[f"{name}.{part}"].double() for part in PARTS)) for name in names}
    return ClassEvidence(labels, sources, images, facts["provenance"])
