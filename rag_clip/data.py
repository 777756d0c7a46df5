"""The values that the parts of RAG-CLIP exchange: frozen, without behaviour beyond their own invariants.

Letters used everywhere: n images, c classes, d width, m support images, p patches, t texts, k retrieved.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias
from unicodedata import normalize

import pyarrow as pa

from rag_clip.display import counted, html_table, listed

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import torch  # for the type alone: an index is opened and served without it

MAX_NAME_CHARACTERS = 1000
Role = Literal["anchor", "context"]


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Class names with their ids, synonyms and groups, aligned by class; `templates` are for all classes.

    Names are normalised to NFC. Equal names with different ids become "crane (id n0201)", which texts call "crane".
    Raises ValueError for an empty set, empty, duplicate or over-long names, and misaligned columns.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()
    synonyms: tuple[tuple[str, ...], ...] = ()
    groups: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("the label set is empty; give at least one class name")
        spelled = [tuple(normalize("NFC", name) for name in names) for names in (self.names, *self.synonyms)]
        object.__setattr__(self, "names", _distinct_names(spelled[0], self.ids))
        object.__setattr__(self, "synonyms", tuple(spelled[1:]))
        _check_names(self.names)
        defaults = {"ids": self.names, "synonyms": ((),) * len(self.names), "groups": ("",) * len(self.names)}
        for column, default in defaults.items():
            values = getattr(self, column) or default
            if len(values) != len(self.names):
                raise ValueError(
                    f"{column} has {counted(len(values), 'entry')} for {counted(len(self.names), 'name')}; give one "
                    "per name"
                )
            object.__setattr__(self, column, tuple(values))
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"template {template!r} has no '{{}}'; put '{{}}' where the class name goes")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"LabelSet({counted(len(self), 'class')}: {listed(self.names)})"


def _distinct_names(names: Sequence[str], ids: Sequence[str]) -> tuple[str, ...]:
    counts, ids = Counter(names), ids if len(ids) == len(names) else names
    repeated = [counts[name] > 1 and identity != name for name, identity in zip(names, ids, strict=True)]
    return tuple(f"{name} (id {ids[row]})" if repeated[row] else name for row, name in enumerate(names))


def _check_names(names: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for row, name in enumerate(names, start=1):
        if not name.strip():
            raise ValueError(f"label {row} is empty; remove it or name the class")
        if len(name) > MAX_NAME_CHARACTERS:
            found = f"{counted(len(name), 'character')} ({name[:40]!r}...)"
            raise ValueError(f"label {row} has {found}; the limit is {MAX_NAME_CHARACTERS}")
        if name in seen:
            raise ValueError(f"label {row} repeats label {seen[name]}, {name!r}; class names must differ, or have ids")
        seen[name] = row


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved caption: its id in the store, its text, its search score, and the corpus that it comes from."""

    id: str
    text: str
    score: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class PromptText:
    """One weighted text of a class.

    `anchor` texts are templates; `context` texts are mixed into every anchor (see classifiers.zero_shot), or subtracted
    from it where their weight is negative.
    `evidence` is the store id of a retrieved caption, `score` and `rank` (from 0) those of its retrieval.
    """

    text: str
    weight: float
    role: Role = "anchor"
    source: str = "template"
    evidence: str = ""
    score: float | None = None
    rank: int | None = None


class VectorSource(Protocol):
    """Where vectors of texts are: in memory, or in a file that is read when they are needed."""

    def read(self) -> EncodedTexts | None:
        """Return the vectors; None where there are none."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTexts:
    """Texts that are encoded: unit `vectors` float32 [t, d] of `texts`, their encoder, and the kind of its device."""

    texts: tuple[str, ...]
    vectors: np.ndarray
    encoder: Fingerprint
    device: str

    def read(self) -> EncodedTexts:
        """Return the vectors themselves, which are in memory."""
        return self

    def vectors_for(self, encoder: Fingerprint, device: str) -> dict[str, np.ndarray]:
        """Return the vectors [d] by text; none for another encoder, precision or kind of device."""
        fits = (encoder.identity, device) == (self.encoder.identity, self.device)
        return dict(zip(self.texts, self.vectors, strict=True)) if fits else {}


@dataclass(frozen=True, slots=True)
class Provenance:
    """How prompts or a support set were made, as far as they record it; a file may record more.

    encoder: the fingerprint as plain values (see `read_fingerprint`); {} if none is recorded.
    method: the name of the recipe or method, or "unknown".
    settings: those of the method.
    index: where the index of captions or images is; "" without one.
    average: what the texts of a class are averaged by, "vectors" or "cosines" (see classifiers.zero_shot).
    without_captions, untrusted: classes for which the index has no captions, and classes whose captions were refused.
    notes: for the user, a sentence each.
    known: what was decided about the names (see prompts.known); {} if nothing was.
    chosen: what unlabelled images chose (see refinement.choose_prompts); {} if nothing.
    """

    encoder: Mapping[str, Any] = field(default_factory=dict)
    method: str = "unknown"
    settings: Mapping[str, Any] = field(default_factory=dict)
    index: str = ""
    average: str = "vectors"
    without_captions: int = 0
    untrusted: int = 0
    notes: tuple[str, ...] = ()
    known: Mapping[str, Any] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)


def read_provenance(document: Mapping[str, Any]) -> Provenance:
    """Return the facts of a provenance that have a meaning here; null and other keys are passed over."""
    known = {each.name for each in fields(Provenance)}
    facts = {name: value for name, value in document.items() if name in known and value is not None}
    for name, kind in (("method", str), ("notes", tuple)):
        if name in facts:
            facts[name] = kind(facts[name])
    return Provenance(**facts)


@dataclass(frozen=True, slots=True)
class Prompts:
    """Weighted texts per class, whose weights sum to one in each class, and the settings that they were made with.

    `encoded` has vectors of texts that were encoded already, of some, all or none of them; they save time alone, and
    prompts with and without them are equal.

    Contexts may weigh less than zero: they are subtracted. Raises ValueError where a class has no text, a weight is not
    finite or that of an anchor negative, or they do not sum to one.
    """

    labels: LabelSet
    texts: tuple[tuple[PromptText, ...], ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    encoded: VectorSource | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise ValueError(
                f"{counted(len(self.texts), 'group')} of texts for {counted(len(self.labels), 'class')}; give one "
                "per class"
            )
        for name, group in zip(self.labels.names, self.texts, strict=True):
            weights = [text.weight for text in group]
            if not group:
                raise ValueError(f"class {name!r} has no text; give it at least one")
            if not all(math.isfinite(text.weight) and (text.weight >= 0 or text.role == "context") for text in group):
                raise ValueError(
                    f"class {name!r} has a weight that is not finite, or an anchor with a negative one; anchors weigh "
                    "from 0 up"
                )
            if abs(sum(weights) - 1) > 1e-4:
                raise ValueError(f"the weights of class {name!r} sum to {sum(weights):.6f}; they must sum to 1")

    @property
    def recorded(self) -> Provenance:
        """The facts of the provenance."""
        return read_provenance(self.provenance)

    def __repr__(self) -> str:
        count, method = sum(map(len, self.texts)), self.recorded.method
        return f"Prompts({counted(len(self.labels), 'class')}, {counted(count, 'text')}, method {method!r})"

    def _repr_html_(self) -> str:
        return html_table(repr(self), self._rows())

    def to_polars(self) -> pl.DataFrame:
        """Return a row per text: label, text, weight, role, source, evidence, score and rank."""
        import polars as pl

        schema = {"label": pl.String, "text": pl.String, "weight": pl.Float64, "role": pl.String, "source": pl.String}
        return pl.DataFrame(
            list(self._rows()), {**schema, "evidence": pl.String, "score": pl.Float64, "rank": pl.Int64}
        )

    def _rows(self) -> Iterator[dict[str, Any]]:
        for name, group in zip(self.labels.names, self.texts, strict=True):
            yield from ({"label": name, **asdict(text)} for text in group)


@dataclass(frozen=True, slots=True)
class Features:
    """Image features: `pooled` [n, d] unit rows, `patches` [n, p, d] unit rows or None, `ids` of the images.

    `others` are unit rows [n, d'] of the same images from additional encoders, by encoder name.
    """

    pooled: torch.Tensor
    patches: torch.Tensor | None = None
    ids: tuple[str, ...] = ()
    others: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class SeveralLabels:
    """Multi-label targets: `marks` bool [n, c], true for the classes of an image, which may have several or none.

    Raises ValueError for another dtype or shape.
    """

    marks: torch.Tensor

    def __post_init__(self) -> None:
        if str(self.marks.dtype) != "torch.bool" or self.marks.ndim != 2:
            raise ValueError(f"marks of labels are {self.marks.dtype} {tuple(self.marks.shape)}; give bool [n, c]")

    def __len__(self) -> int:
        return len(self.marks)

    def __getitem__(self, rows: torch.Tensor | slice | list[int]) -> SeveralLabels:
        """Return the labels of some images; `rows` index like those of a tensor."""
        return SeveralLabels(self.marks[rows])

    @property
    def device(self) -> torch.device:
        """The device of the marks."""
        return self.marks.device

    def tolist(self) -> list[list[bool]]:
        """Return the marks of each image as lists."""
        marks: list[list[bool]] = self.marks.tolist()
        return marks

    def to(self, device: torch.device | str) -> SeveralLabels:
        """Return a copy on a device."""
        return SeveralLabels(self.marks.to(device))


Targets: TypeAlias = "torch.Tensor | SeveralLabels"  # classes int64 [n] or shares [n, c] in a tensor, or multi-label


@dataclass(frozen=True, slots=True, eq=False)
class Support:
    """Example images of the classes, for few-shot heads.

    labels: the c classes.
    features: unit rows, [m, d].
    targets: shares of the classes, [m, c], in rows that sum to one; or SeveralLabels, where each label counts fully.
    relevance: how much to trust each image, [m], in [0, 1].
    origin: of each image: shot, corrected, retrieved or synthesised.
    references: id of each image.
    provenance: settings that the set was made with.
    others: features [m, d'] from additional encoders, by encoder name.
    pixels: uint8 [m, 3, height, width] as the encoder sees the images, for a head that changes its image tower.

    Raises ValueError for no image, columns of different lengths, and values that are not finite or out of range.
    """

    labels: LabelSet
    features: torch.Tensor
    targets: Targets
    relevance: torch.Tensor
    origin: tuple[str, ...]
    references: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, torch.Tensor] = field(default_factory=dict)
    pixels: torch.Tensor | None = None

    @property
    def recorded(self) -> Provenance:
        """The facts of the provenance."""
        return read_provenance(self.provenance)

    def __post_init__(self) -> None:
        count = len(self.features)
        if count == 0:
            raise ValueError("the support set has no image; classify by text alone, or find images for it")
        columns: dict[str, Sized] = {
            "relevance": self.relevance,
            "origin": self.origin,
            "references": self.references,
            **self.others,
            **({} if self.pixels is None else {"pixels": self.pixels}),
        }
        for name, column in columns.items():
            if len(column) != count:
                raise ValueError(
                    f"the support set has {counted(count, 'feature')}, but {counted(len(column), 'row')} of {name}"
                )
        shares = self.shares
        if tuple(shares.shape) != (count, len(self.labels)):
            raise ValueError(
                f"support targets are {tuple(shares.shape)}; expected [m, c] = {(count, len(self.labels))}"
            )
        for name, values in (("features", self.features), ("targets", shares), ("relevance", self.relevance)):
            if not bool(values.isfinite().all()):
                raise ValueError(f"the support set has {name} that are not finite; encode its images again")
        if not self.several and (float((shares.sum(1) - 1).abs().max()) > 1e-3 or float(shares.min()) < 0):
            raise ValueError("a row of support targets does not sum to one; give each image shares of the classes")
        if not 0 <= float(self.relevance.min()) <= float(self.relevance.max()) <= 1:
            raise ValueError("relevance of a support image lies outside [0, 1]")

    def __len__(self) -> int:
        return len(self.features)

    @property
    def several(self) -> bool:
        """Whether the targets are multi-label, which few heads can learn from."""
        return isinstance(self.targets, SeveralLabels)

    @property
    def shares(self) -> torch.Tensor:
        """Targets as a tensor [m, c]: shares, or bool with true for each label."""
        return self.targets.marks if isinstance(self.targets, SeveralLabels) else self.targets

    def arrange(self, labels: LabelSet) -> Support:
        """Return the support set with its classes in the order of `labels`, which must have the same names."""
        order = [self.labels.names.index(name) for name in labels.names]
        moved = self.shares[:, order]
        return replace(self, labels=labels, targets=SeveralLabels(moved) if self.several else moved)

    def __repr__(self) -> str:
        lacking = f", {counted(len(self.missing), 'class')} without one" if self.missing else ""
        classes, method = counted(len(self.labels), "class"), self.recorded.method
        return f"Support({counted(len(self), 'image')} of {classes}{lacking}, method {method!r})"

    def _repr_html_(self) -> str:
        return html_table(repr(self), self._rows())

    def to_polars(self) -> pl.DataFrame:
        """Return a row per image: its classes, relevance, origin and reference."""
        import polars as pl

        texts = {"origin": pl.String, "reference": pl.String}
        return pl.DataFrame(list(self._rows()), {"labels": pl.List(pl.String), "relevance": pl.Float64, **texts})

    def _rows(self) -> Iterator[dict[str, Any]]:
        columns = zip(self.shares.tolist(), self.relevance.tolist(), self.origin, self.references, strict=True)
        for shares, relevance, origin, reference in columns:
            names = [name for name, share in zip(self.labels.names, shares, strict=True) if share > 0]
            yield {"labels": names, "relevance": relevance, "origin": origin, "reference": reference}

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the classes without an image."""
        present = (self.shares.sum(0) > 0).tolist()  # [c]
        return tuple(name for name, any_image in zip(self.labels.names, present, strict=True) if not any_image)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What images say of c classes: sums, so that evidence of two sources is the sum of theirs.

    counts: images of each class, [c]; sums of shares or weights.
    sums: of their features, [c, d].
    squares: sum over all images of the squares of their features, [d].
    """

    counts: torch.Tensor
    sums: torch.Tensor
    squares: torch.Tensor

    def __add__(self, other: Evidence) -> Evidence:
        """Return the evidence of both."""
        return Evidence(self.counts + other.counts, self.sums + other.sums, self.squares + other.squares)

    def __sub__(self, other: Evidence) -> Evidence:
        """Return the evidence without that of a part."""
        return Evidence(self.counts - other.counts, self.sums - other.sums, self.squares - other.squares)

    def __mul__(self, weight: float) -> Evidence:
        """Return evidence that counts `weight` times."""
        return Evidence(weight * self.counts, weight * self.sums, weight * self.squares)

    __rmul__ = __mul__


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """Held-out labelled images to choose settings on: `features` of n images, and `targets`: their classes, int64 [n].

    `targets` are SeveralLabels where an image may have several. Functions that train or choose settings accept only
    this type, so that test labels cannot be passed by mistake.
    Raises ValueError for no image, targets of another length, and classes outside the label set.
    """

    features: Features
    labels: LabelSet
    targets: Targets

    def __post_init__(self) -> None:
        if not 0 < len(self.targets) == len(self.features.pooled):
            raise ValueError(
                f"{counted(len(self.targets), 'target')} for "
                f"{counted(len(self.features.pooled), 'validation image')}; give one per image, and at least one image"
            )
        if foreign_row("validation", self.targets, len(self.labels)) is not None:
            raise ValueError(
                f"a validation target is none of the {counted(len(self.labels), 'class')}; count them from 0"
            )


def foreign_row(role: str, targets: Targets, classes: int) -> int | None:
    """Return the row of the first image whose class is outside 0..`classes` - 1; None where there is none.

    `role` names the images in messages. Raises ValueError for labels of another shape than [n], or SeveralLabels of
    another number of classes.
    """
    values = targets.marks if isinstance(targets, SeveralLabels) else targets
    if values.shape[1:] != ((classes,) if isinstance(targets, SeveralLabels) else ()):
        raise ValueError(
            f"labels of {role} images are {values.dtype} {tuple(values.shape)}; give int64 [n], or SeveralLabels of "
            f"bool [n, {classes}] where an image may have several"
        )
    if isinstance(targets, SeveralLabels) or 0 <= int(targets.min()) <= int(targets.max()) < classes:
        return None
    return int(((targets < 0) | (targets >= classes)).nonzero()[0, 0])


@dataclass(frozen=True, slots=True)
class Kept:
    """The result of a corpus filter: rows selected, and rows dropped, each with its reason and score."""

    selected: pa.Table
    dropped: pa.Table
    reason: tuple[str, ...]
    score: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Identifies everything that an encoder's vectors depend on.

    model, pretrained, weights: the architecture, its tag or file name, and the SHA-256 of the weights.
    preprocessing: of images and texts, as JSON.
    precision: of the computation.
    activation: GELU or QuickGELU, where the architecture's name leaves it open; '' if the configuration states it, and
        in older files.
    spec: the model as the user named it, to load it again; not part of the identity.
    resampler: what resized the images, torch or pillow; '' in older files and for encoders with their own preprocess.
        Pixels differ by a few grey levels, so features are stored apart, but can be compared.
    of_images: the `identity` of the encoder whose image vectors are the same, as JSON, for an adapted encoder whose
        image tower did not move; '' for others. Not part of the identity.
    """

    model: str
    pretrained: str
    weights: str
    preprocessing: str
    precision: str = "fp32"
    activation: str = ""
    spec: str = field(default="", compare=False)
    resampler: str = ""
    of_images: str = field(default="", compare=False)

    @property
    def image_part(self) -> Fingerprint:
        """Identifies what image vectors depend on: this fingerprint, or that of the encoder with the same vectors."""
        if not self.of_images:
            return self
        return Fingerprint(**{**json.loads(self.of_images), "precision": self.precision, "spec": self.spec})

    @property
    def identity(self) -> dict[str, str]:
        """The fields that vectors depend on, as plain values."""
        names = ("model", "pretrained", "weights", "preprocessing", "precision")
        optional = [name for name in ("activation", "resampler") if getattr(self, name)]
        return {name: getattr(self, name) for name in (*names, *optional)}

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that identify the vectors; part of the name of cached features."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    def agrees_with(self, other: Fingerprint) -> bool:
        """Return whether vectors of the two encoders can be compared: all is equal but tag, precision and resampler."""
        return (self.model, self.weights, self.preprocessing) == (
            other.model,
            other.weights,
            other.preprocessing,
        ) and (not self.activation or not other.activation or self.activation == other.activation)

    def __str__(self) -> str:
        return f"{self.model} ({self.pretrained or 'no tag'}, weights {self.weights[:12]})"


def check_same_encoder(
    made_with: Fingerprint, encoder: Fingerprint, *, what: str, advice: str, of_images: bool = False
) -> None:
    """Raise ValueError unless vectors made with one encoder can be compared with those of `encoder`.

    `what` begins the message, such as "the prompts were made"; `advice` ends it. `of_images` compares only what image
    vectors depend on.
    """
    agree = made_with.image_part.agrees_with(encoder.image_part) if of_images else made_with.agrees_with(encoder)
    if not agree:
        raise ValueError(f"{what} with {made_with}, but the encoder is {encoder}; {advice}")


def read_fingerprint(document: object) -> Fingerprint:
    """Return the fingerprint that a file records as plain values; raises ValueError for other values."""
    known = [each.name for each in fields(Fingerprint)]
    needed = {each.name for each in fields(Fingerprint) if each.default is MISSING}
    if (
        not isinstance(document, Mapping)
        or not needed <= set(document) <= {*known}
        or not all(isinstance(value, str) for value in document.values())
    ):
        raise ValueError(f"its encoder is recorded as {str(document)[:80]!r}; give the texts {', '.join(known)}")
    return Fingerprint(**document)
