"""Explain a class by its texts, and the class of an image by the texts that decided it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rag_clip.classifiers.explain import ImageExplanation, LabelExplanation, explain_image, explain_label
from rag_clip.data import Prompts
from rag_clip.display import counted
from rag_clip.given import AnyEncoder, OneImage, to_encoder, to_image, to_texts
from rag_clip.progress import Report
from rag_clip.progress_line import on_screen
from rag_clip.report.explanation import explanation_html, write_page


@dataclass(frozen=True, slots=True)
class Explanation:
    """The texts of a class, the texts that decided an image's class, or both.

    label: the explanation of a class, or None.
    image: the explanation of an image, or None.
    picture: the bytes of the image file, or None.
    """

    label: LabelExplanation | None
    image: ImageExplanation | None
    picture: bytes | None

    def write_page(self, path: str | Path, *, force: bool = False) -> None:
        """Write an HTML page with the picture and a bar per text; errors as `report.explanation.write_page`."""
        write_page(path, label=self.label, image=self.image, picture=self.picture, force=force)

    def __str__(self) -> str:
        """Say it in one line."""
        return " and ".join(self._lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return explanation_html(label=self.label, image=self.image, picture=self.picture)

    def _lines(self) -> Iterator[str]:
        if self.label is not None:
            yield f"{self.label.label}: {counted(len(self.label.texts), 'text')}"
        if self.image is not None:
            winner, rival = self.image.winner, self.image.rival
            yield f"the image is {winner.label} ({winner.probability:.1%}), and not {rival.label}"


@on_screen.job()
def explain(
    prompts: Prompts | str | Path,
    label: str | None = None,
    *,
    image: OneImage | None = None,
    encoder: AnyEncoder | None = None,
    before: Prompts | str | Path | None = None,
    count: int = 10,
    report: Report = on_screen,
) -> Explanation:
    """Explain a class by its texts and its nearest classes, the class of an image, or both.

    prompts: the prompts, or their file.
    label: the class to explain; with an image, the class that the image's class is compared with (by default its
        second).
    image: the image to explain.
    encoder: an encoder or the name of a model; by default the one that the prompts record.
    before: earlier prompts, whose nearest classes are compared; by default the templates alone.
    count: how many nearest classes are shown.
    report: called with the progress.

    Raises ValueError as `explain_label` and `explain_image`, and if there is nothing to explain; TypeError for what
    cannot be prompts, an image or an encoder.
    """
    if label is None and image is None:
        raise ValueError("there is nothing to explain; give a class name, an image, or both")
    if count < 1:
        raise ValueError(f"count is {count}; show at least one class")
    texts, earlier = to_texts(prompts), None if before is None else to_texts(before)
    picture = None if image is None else to_image(image)
    encoder = to_encoder(encoder, recorded=texts.recorded.encoder)
    of_image = None if picture is None else explain_image(picture, texts, encoder, against=label, report=report)
    of_label = (
        None if label is None else explain_label(label, texts, encoder, before=earlier, count=count, report=report)
    )
    return Explanation(of_label, of_image, picture)
