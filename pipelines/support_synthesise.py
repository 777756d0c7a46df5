"""Make a support set of painted images: plan, paint what is missing, encode, keep the best, write."""

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
from rag_clip.progress import Report, StageClock
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder, Painter
from rag_clip.support.paintings import Painted, paint, read_painted
from rag_clip.support.synthesised import Wording, is_black, plan_paintings, synthesised_support


@dataclass(frozen=True, slots=True)
class SynthesisedSummary:
    """What `synthesise_support` did: `images` of `classes` in `output`, the best of `painted`, of which `black` none.

    `agreement` is, by class, the share of the images that zero-shot calls by the class's name; `missing` are the names
    without an image. `paintings` is the folder that keeps every image painted.
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
    """Painted images that can be used, in the plan's order: features float32 [m, d], places there, references."""

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
    per_class: int = 16,
    keep: int = 8,
    wording: Wording = "templates",
    seed: int = 0,
    batch: int = 8,
    paintings: str | Path | None = None,
    with_images: bool = False,
    force: bool = False,
    report: Report = on_screen,
) -> SynthesisedSummary:
    """Write a support set of the `keep` best of `per_class` images painted for each class of `prompts`.

    See `plan_paintings` and `synthesised_support`; SuS-X paints up to 100 and keeps all. All images stay in the folder
    `paintings`, by default `output` without its suffix: the same painter does not paint them again. `with_images` puts
    those that were kept into the support file too. Raises PainterError where the painter fails midway, ValueError for
    numbers below 1, prompts of another encoder, an output or folder that, but with `force`, is of others, and where no
    image can be used; BusyError where another process writes the output or paints into the folder.
    """
    output, clock = Path(output), StageClock()
    check_support_path(output)
    folder = Path(paintings) if paintings is not None else output.with_suffix("")
    written = [(output, "support synthesise"), (folder, "paintings")]
    check_outputs(written, force=force)
    if batch < 1 or keep < 1:
        raise ValueError(f"batch is {batch} and keep is {keep}; give at least 1")
    prompts = to_texts(prompts)
    plan = plan_paintings(prompts, per_class=per_class, wording=wording, seed=seed)
    encoder = to_encoder(encoder, recorded=prompts.provenance)
    with holding(written, force=force), locked(folder / "lock", doing=f"paint into {folder}"):
        with clock.stage("encode texts"):
            classifier = zero_shot(prompts, encoder, report=report)
        seen = _look(paint(plan, painter, folder=folder, batch=batch, report=report), encoder, clock)
        classes = np.array([plan[place].row for place in seen.places], dtype=np.int64)
        settings = {"per_class": per_class, "keep": keep, "wording": wording, "seed": seed}
        made = synthesised_support(
            classifier,
            seen.features,
            classes,
            seen.references,
            keep=keep,
            provenance={
                "encoder": asdict(encoder.fingerprint),
                "method": "synthesised",
                "settings": settings,
                "painter": {"name": painter.name, **painter.settings},
                "black": seen.black,
            },
        )
        images = [read_painted(reference) for reference in made.support.references] if with_images else None
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
        dict(clock.seconds),
    )


def _look(batches: Iterator[list[Painted]], encoder: Encoder, clock: StageClock) -> _Seen:
    """Encode the images as they are painted, and forget them, so that memory holds one batch."""
    features: list[torch.Tensor] = [torch.zeros(0, encoder.dim)]
    kept: list[Painted] = []
    black = 0
    while True:
        with clock.stage("paint"):
            batch = next(batches, None)
        if batch is None:
            break
        with clock.stage("encode images"):
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
