"""Make a support set of k labelled images per class: draw, decode several views, encode, average."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.data import SeveralLabels, Support
from rag_clip.display import counted
from rag_clip.files.locations import shown
from rag_clip.files.outputs import check_outputs, holding
from rag_clip.files.support import METADATA, check_support_path, read_support, write_support
from rag_clip.given import AnyEncoder, AnyLabels, to_encoder, to_labels, to_places
from rag_clip.images.labelled import read_targets
from rag_clip.images.opening import Images
from rag_clip.images.views import CropViews
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder
from rag_clip.support.drawn import Source, assemble, encode_drawn
from rag_clip.support.shots import MOST_VALIDATION, Shots, choose_shared_shots, choose_shots

from .running import Running


@dataclass(frozen=True, slots=True)
class ShotsSummary:
    """What `support_from_shots` did.

    output: the support file.
    images, classes: images in the file, and classes that have some.
    failed: images drawn, for either file, that could not be used.
    short: classes with fewer than k images, and how many they have.
    missing: classes without an image.
    repeated: images drawn more than once; each is one row, with all of its classes.
    copies: images drawn for validation that equal an image of the support byte for byte; left out.
    validation: images in the validation file.
    reused: whether `output` was there already, made by the same encoder from the same files with the same settings.
    """

    output: Path
    images: int
    classes: int
    failed: int
    short: Mapping[str, int]
    missing: tuple[str, ...]
    repeated: int
    copies: int
    validation: int
    reused: bool

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.output}: {counted(self.images, 'image')} of {counted(self.classes, 'class')}"
            f"{', unchanged since an earlier run' if self.reused else ''}"
        )

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class ShotSettings:
    """How labelled images are drawn, encoded and stored.

    seed: of the draw.
    views: an image's feature is the normalised mean over `views` random crops (10 in Tip-Adapter); 0 encodes the whole
        image once.
    with_images: store the images in the files too, for heads with further encoders.

    Raises ValueError for a negative number of views.
    """

    seed: int = 0
    views: int = 10
    with_images: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.views < 0:
            raise ValueError(f"views is {self.views}; give 0 for the whole image, or a number of crops")


@dataclass(frozen=True, slots=True)
class _Settings:
    """What decides a support file, besides its images, labels and encoder."""

    role: Literal["support", "validation"]
    k: int
    seed: int
    views: int
    with_images: bool


class _Made(NamedTuple):
    """A support set in its file; how many images drawn for it could not be used, and how many are copies of others."""

    support: Support
    failed: int
    copies: int
    reused: bool


@on_screen.job()
def support_from_shots(
    images: Images | str | Path | Sequence[str | Path],
    labels: AnyLabels,
    *,
    output: str | Path,
    encoder: AnyEncoder,
    k: int,
    settings: ShotSettings = ShotSettings(),
    validation_output: str | Path | None = None,
    running: Running = Running(),  # noqa: B008
) -> ShotsSummary:
    """Write the support set of k images per class of labelled images; see `choose_shots`.

    images: paths; `Images` if the columns are not called `image` and `label`. An image with a list of names stands for
        all its classes; see `choose_shared_shots`.
    labels: the classes.
    output: a Parquet file.
    encoder: an encoder or the name of a model.
    k: images per class.
    settings: the seed of the draw, the crops of each image, and whether the files contain the images.
    validation_output: a file for min(k, 4) further images per class. Each is encoded whole, as images to classify are;
        copies of images of the support are left out.
    running: processes, batch size, `force` and progress.

    Raises ValueError for labels that are not in the label set, settings out of range, an output that is an input or
    (without `force`) belongs to another program, and if no image can be used or is left for validation; BusyError if
    another process writes the output.
    """
    images, labels = to_places(images, "images"), to_labels(labels)
    output, judged = Path(output), None if validation_output is None else Path(validation_output)
    for path in (output, judged) if judged else (output,):
        check_support_path(path)
    written = [(output, "support shots"), (judged, "support shots")]
    check_outputs(written, inputs=[images.paths], force=running.force)
    files = images.open()
    source = Source(files, labels, read_targets(files, labels, images.label_column), images.label_column)
    shots = _choose(source, k, settings.seed, validate=judged is not None)
    if judged and not shots.validation:
        raise ValueError("no image is left for validation; draw fewer per class, or give more")
    training = _Settings("support", k, **asdict(settings))
    encoder = to_encoder(encoder)
    make = partial(_make, source, encoder=encoder, running=running)
    with holding(written, force=running.force):
        made = [make(output, shots.support, training)]
        if judged:
            judging = replace(training, role="validation", views=0)
            made.append(make(judged, shots.validation, judging, apart=shots.support))
    return _summarise(output, shots, made)


def _choose(source: Source, k: int, seed: int, *, validate: bool) -> Shots:
    """Draw the rows; an image of several labels counts for each of them."""
    names, targets = source.labels.names, source.targets
    if not isinstance(targets, SeveralLabels):
        labels = [names[row] for row in targets.tolist()]
        return choose_shots(labels, k=k, seed=seed, validation="min(k,4)" if validate else "none")
    several = [tuple(compress(names, marks)) for marks in targets.marks.tolist()]
    shots = choose_shared_shots(several, k=k, seed=seed)
    left = [() if row in set(shots.support) else labels for row, labels in enumerate(several)]
    if not validate or not any(left):
        return shots
    return replace(shots, validation=choose_shared_shots(left, k=min(k, MOST_VALIDATION), seed=seed).support)


def _summarise(output: Path, shots: Shots, made: Sequence[_Made]) -> ShotsSummary:
    support, reused = made[0].support, made[0].reused
    images = sum(len(each.support) for each in made)
    failed, copies = sum(each.failed for each in made), sum(each.copies for each in made)
    return ShotsSummary(
        output,
        len(support),
        len(support.labels) - len(support.missing),
        failed,
        shots.short,
        support.missing,
        len(shots.support) + len(shots.validation) - failed - copies - images,
        copies,
        images - len(support),
        reused,
    )


def _make(
    source: Source,
    path: Path,
    rows: Sequence[int],
    settings: _Settings,
    *,
    apart: Sequence[int] = (),
    encoder: Encoder,
    running: Running,
) -> _Made:
    """Write the support set of `rows` without copies of the rows `apart`, unless `path` is that set already."""
    key = _key(source, encoder, settings)
    made = _read_made(path, key)
    if made is not None:
        return made
    drawn = encode_drawn(
        source,
        sorted(rows),
        CropViews(encoder.preprocess, settings.views, settings.seed),
        encoder=encoder,
        stage=f"encode {settings.role}",
        decoding=running.decoding,
        report=running.report,
    )
    used = drawn.without(source.digests(sorted(apart)))
    copies = len(drawn.rows) - len(used.rows)
    if not used.rows:
        raise ValueError(
            f"every image drawn for validation is a copy of a support image ({counted(copies, 'image')}); "
            "give other images, or draw fewer"
        )
    facts: dict[str, Any] = {"encoder": asdict(encoder.fingerprint), "method": "shots", "settings": asdict(settings)}
    facts |= {"files": [shown(file.path) for file in source.files], "key": key}
    facts |= {"failed": drawn.failed, "copies": copies}
    support, kept = assemble(source, used, "shot", facts)
    write_support(support, path, images=source.read(kept) if settings.with_images else None)
    return _Made(support, drawn.failed, copies, False)


def _key(source: Source, encoder: Encoder, settings: _Settings) -> str:
    """Return a hash of everything that decides a support file: encoder, files, label set and settings."""
    sources = [list(file.identity.facts) for file in source.files]
    columns = [source.files[0].image, source.label_column]
    facts = json.dumps([encoder.fingerprint.key, source.labels.names, sources, columns, asdict(settings)])
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _read_made(path: Path, key: str) -> _Made | None:
    """Return the support set at `path` if it was made with `key`."""
    if not path.is_file():
        return None
    try:
        recorded = json.loads(pq.read_schema(path).metadata[METADATA])["provenance"]
        if recorded.get("key") != key:
            return None
        return _Made(read_support(path), int(recorded["failed"]), int(recorded["copies"]), True)
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException):
        return None
