"""Explain a class by its texts, and the class of an image by the texts that decided it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rag_clip.classifiers.anchored import Anchored, held_evidence
from rag_clip.classifiers.explain import Decision, ImageExplanation, LabelExplanation, explain_image, explain_label
from rag_clip.classifiers.floor import Floored
from rag_clip.classifiers.likelihoods import SourcePart, split_decision
from rag_clip.classifiers.patch_maps import HeatMap, heat_map
from rag_clip.classifiers.prepared import PreparedHead, prepare_head
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shots
from rag_clip.data import Evidence, Features, Prompts
from rag_clip.display import counted
from rag_clip.given import AnyEncoder, OneImage, to_encoder, to_image, to_texts
from rag_clip.models.decode import decode_image
from rag_clip.progress import Progress, Report
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Classifier, Encoder
from rag_clip.refinement.batch import images_to_refine, refine_and_keep
from rag_clip.report.explanation import explanation_html, write_page

from .running import Running
from .unlabelled import Unlabelled

TEXT_ALONE = SourcePart("text", (1.0, 1.0), (0.0, 0.0))


@dataclass(frozen=True, slots=True)
class Beside:
    """The evidence of images that decides beside the texts, as in `classify` with the head `evidence` and `refine`.

    support: a support file or a file of evidence; None for none.
    unlabelled: the images that are classified together with the explained one; None to explain it by itself.
    floor: use only as much of the support as held-out images support.
    """

    support: str | Path | None = None
    unlabelled: Unlabelled | None = None
    floor: bool = True


@dataclass(frozen=True, slots=True)
class Explanation:
    """The texts of a class, the texts that decided an image's class, or both.

    label: the explanation of a class, or None.
    image: the explanation of an image, or None.
    picture: the bytes of the image file, or None.
    heat: where in the image its class is, by the patches of the encoder; None without an image or patches.
    """

    label: LabelExplanation | None
    image: ImageExplanation | None
    picture: bytes | None
    heat: HeatMap | None = None

    def write_page(self, path: str | Path, *, force: bool = False) -> None:
        """Write an HTML page with the picture and a bar per text; errors as `report.explanation.write_page`."""
        write_page(path, label=self.label, image=self.image, picture=self.picture, heat=self.heat, force=force)

    def __str__(self) -> str:
        """Say it in one line."""
        return " and ".join(self._lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return explanation_html(label=self.label, image=self.image, picture=self.picture, heat=self.heat)

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
    beside: Beside | None = None,
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
    beside: evidence of images beside the texts, for which the explanation of an image then has a part each.
    count: how many nearest classes are shown.
    report: called with the progress.

    Raises ValueError as `explain_label` and `explain_image`, and if there is nothing to explain; TypeError for what
    cannot be prompts, an image or an encoder.
    """
    if label is None and image is None:
        raise ValueError("there is nothing to explain; give a class name, an image, or both")
    if count < 1:
        raise ValueError(f"count is {count}; show at least one class")
    if beside is not None and image is None:
        raise ValueError("evidence of images decides the class of an image; give one, or leave the evidence out")
    texts, earlier = to_texts(prompts), None if before is None else to_texts(before)
    picture = None if image is None else to_image(image)
    encoder = to_encoder(encoder, recorded=texts.recorded.encoder)
    of_image = None
    if picture is not None:
        decide = None if beside is None else _deciding(beside, texts, encoder, report)
        of_image = explain_image(picture, texts, encoder, against=label, decide=decide, report=report)
    heat = None
    if picture is not None and of_image is not None:
        heat = _heat(picture, of_image.winner.label, texts, encoder, report)
    of_label = (
        None if label is None else explain_label(label, texts, encoder, before=earlier, count=count, report=report)
    )
    return Explanation(of_label, of_image, picture, heat)


def _heat(picture: bytes, label: str, prompts: Prompts, encoder: Encoder, report: Report) -> HeatMap | None:
    """Return where in the image the class is, by its texts."""
    row = prompts.labels.names.index(label)
    weights = zero_shots([prompts], encoder, report=report)[0].weights
    return heat_map(decode_image(picture), label, torch.nn.functional.normalize(weights[row].float(), dim=0), encoder)


def _deciding(beside: Beside, prompts: Prompts, encoder: Encoder, report: Report) -> Callable[[ZeroShot], Decision]:
    """Return a function that adds the evidence to a classifier of texts."""
    head = None
    if beside.support is not None:
        head = prepare_head("evidence", beside.support, labels=prompts.labels, encoder=encoder, report=report)
        head = head if beside.floor else head.without_floor()
    images = None
    if beside.unlabelled is not None:
        running, progress = Running(report=report), Progress(report=report)
        count = images_to_refine(len(prompts.labels))
        images = beside.unlabelled.sample(count, encoder, running=running, progress=progress)
    return lambda text: _decision(text, head, images)


def _decision(text: ZeroShot, head: PreparedHead | None, images: Features | None) -> Decision:
    classifier: Classifier = head.build(text) if head else text
    inner = classifier.head if isinstance(classifier, Floored) else classifier
    strength = classifier.strength if isinstance(classifier, Floored) else 1.0
    sources = dict(inner.evidence.sources) if isinstance(inner, Anchored) and strength else {}
    texts = torch.nn.functional.normalize(text.weights.cpu().double(), dim=1)
    if images is None:
        present = inner.present.cpu() if isinstance(inner, Anchored) else torch.zeros(len(texts), dtype=torch.bool)

        def split(image: torch.Tensor, rows: tuple[int, int]) -> Sequence[SourcePart]:
            if not sources:
                return [TEXT_ALONE]
            decides = tuple(strength * float(present[row]) for row in rows)
            return [_weighed(part, decides) for part in split_decision(sources, texts, image, rows)]

        return Decision(classifier, split)
    refined, kept = refine_and_keep(classifier, images, text.weights, held=held_evidence(classifier))

    def split_with_batch(image: torch.Tensor, rows: tuple[int, int]) -> Sequence[SourcePart]:
        batch, prior = kept.of(image)
        held: dict[str, Evidence] = {name: strength * each for name, each in sources.items()}
        parts = split_decision(held | {"batch": batch}, texts, image, rows)
        added = [float(prior[row] - prior[list(rows)].mean()) for row in rows]
        prior_part = SourcePart("prior", (0.0, 0.0), (added[0], added[1]))
        return [_weighed(part, (kept.trusted, kept.trusted)) for part in (*parts, prior_part)]

    return Decision(refined, split_with_batch)


def _weighed(part: SourcePart, weights: tuple[float, ...]) -> SourcePart:
    return replace(part, lifts=(weights[0] * part.lifts[0], weights[1] * part.lifts[1]))
