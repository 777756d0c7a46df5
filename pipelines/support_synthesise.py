"""Make a support set of generated images: plan, paint what is missing, encode, keep the best, write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Prompts
from rag_clip.display import counted
from rag_clip.files.lock import locked
from rag_clip.files.outputs import check_outputs, holding
from rag_clip.files.support import check_support_path, write_support
from rag_clip.given import AnyEncoder, to_encoder, to_texts
from rag_clip.models.decode import decode_image
from rag_clip.progress import Progress
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder, Painter
from rag_clip.support.paintings import Painted, paint, read_painted
from rag_clip.support.synthesised import Synthesis, is_black, plan_paintings, synthesised_support

from .running import Running


@dataclass(frozen=True, slots=True)
class SynthesisedSummary:
    """What `synthesise_support` did.

    output: the support file.
    paintings: the folder that keeps every image painted.
    images, classes: images in the file, and classes that have some.
    painted, black: images painted, and how many of them were black, which are not used.
    agreement: by class, the share of its images that zero-shot assigns to the class.
    missing: classes without an image.
    seconds: per stage.
    """

    output: Path
    paintings: Path
    images: int
    classes: int
    painted: int
    black: int
    agreement: Mapping[str, float]
    missing: tuple[str, ...]
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.output}: {counted(self.images, 'image')} of {counted(self.classes, 'class')}, "
            f"of {self.painted} painted"
        )

    __repr__ = __str__


class _Seen(NamedTuple):
    """Usable images in the order of the plan: features float32 [m, d], places in the plan, references; black images."""

    features: torch.Tensor
    places: list[int]
    references: list[str]
    black: int


@on_screen.job()
def synthesise_support(
    prompts: Prompts | str | Path,
    *,
    output: str | Path,
    encoder: AnyEncoder | None = None,
    painter: Painter,
    settings: Synthesis = Synthesis(),  # noqa: B008
    paintings: str | Path | None = None,
    running: Running = Running(),  # noqa: B008
) -> SynthesisedSummary:
    """Write a support set of the best of the images painted for each class of `prompts`.

    prompts: the classes and the texts to paint, or their file.
    output: a Parquet file.
    encoder: an encoder or the name of a model; by default the one that the prompts record.
    painter: see `load_painter`.
    settings: how many images are painted and kept per class, and from which texts.
    paintings: the folder that keeps all images, by default `output` without its suffix; the same painter does not paint
        them again.
    running: `force` and progress.

    See `plan_paintings` and `synthesised_support`. Raises PainterError if the painter fails midway; ValueError for
    prompts of another encoder, for an output or folder that (without `force`) belongs to another program, and if no
    image can be used; BusyError if another process writes the output or paints into the folder.
    """
    output, progress, report = Path(output), Progress(), running.report
    check_support_path(output)
    folder = Path(paintings) if paintings is not None else output.with_suffix("")
    written = [(output, "support synthesise"), (folder, "paintings")]
    check_outputs(written, force=running.force)
    prompts = to_texts(prompts)
    plan = plan_paintings(prompts, per_class=settings.per_class, wording=settings.wording, seed=settings.seed)
    encoder = to_encoder(encoder, recorded=prompts.recorded.encoder)
    with holding(written, force=running.force), locked(folder / "lock", doing=f"paint into {folder}"):
        with progress.stage("encode texts"):
            classifier = zero_shot(prompts, encoder, report=report)
        seen = _look(paint(plan, painter, folder=folder, batch=settings.batch, report=report), encoder, progress)
        classes = np.array([plan[place].row for place in seen.places], dtype=np.int64)
        made = synthesised_support(
            classifier,
            seen.features,
            classes,
            seen.references,
            keep=settings.keep,
            provenance={
                "encoder": asdict(encoder.fingerprint),
                "method": "synthesised",
                "settings": settings.facts,
                "painter": {"name": painter.name, **painter.settings},
                "black": seen.black,
            },
        )
        images = [read_painted(reference) for reference in made.support.references] if settings.with_images else None
        write_support(made.support, output, images=images)
    return SynthesisedSummary(
        output,
        folder,
        len(made.support),
        len(prompts.labels) - len(made.support.missing),
        len(plan),
        seen.black,
        made.agreement,
        made.support.missing,
        dict(progress.seconds),
    )


def _look(batches: Iterator[list[Painted]], encoder: Encoder, progress: Progress) -> _Seen:
    """Encode the images as they are painted; memory holds one batch of images."""
    features: list[torch.Tensor] = [torch.zeros(0, encoder.dim)]
    kept: list[Painted] = []
    black = 0
    while True:
        with progress.stage("paint"):
            batch = next(batches, None)
        if batch is None:
            break
        with progress.stage("encode images"):
            images = [decode_image(painted.image) for painted in batch]
            seen = [row for row, image in enumerate(images) if not is_black(image)]
            black += len(batch) - len(seen)
            if seen:
                features.append(encoder.encode_images([images[row] for row in seen]).pooled.float().cpu())
                kept += [replace(batch[row], image=b"") for row in seen]
    order = sorted(range(len(kept)), key=lambda row: kept[row].place)
    in_order = [kept[row] for row in order]
    places, references = [painted.place for painted in in_order], [painted.reference for painted in in_order]
    return _Seen(torch.cat(features)[order], places, references, black)
