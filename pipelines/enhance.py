"""Enhance a label set and write its prompts; measure how much further apart its classes are; compare with controls."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rag_clip.classifiers.zero_shot import ZeroShot, compose, encode_texts, zero_shots
from rag_clip.data import LabelSet, Prompts, PromptText, SeveralLabels
from rag_clip.display import counted
from rag_clip.files.outputs import holding
from rag_clip.files.prompts import check_prompts_path, write_prompts
from rag_clip.given import (
    AnyEncoder,
    AnyImages,
    AnyIndex,
    AnyLabels,
    AnyRecipe,
    index_place,
    opened,
    to_encoder,
    to_labels,
    to_recipe,
)
from rag_clip.images.labelled import Labelled
from rag_clip.metrics.distinguish import Distinguishability, Separation, distinguishability, separation
from rag_clip.metrics.ranking import mean_average_precision
from rag_clip.models.remembering import remembering
from rag_clip.progress import Progress, Report
from rag_clip.progress_line import on_screen
from rag_clip.prompts.enhance import Control, control_prompts, enhance_rivals
from rag_clip.prompts.enhance import enhance as find_prompts
from rag_clip.prompts.recipe import Recipe
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Encoder
from rag_clip.refinement.choose_prompts import choose_prompts, describe_choice, images_to_choose
from rag_clip.store import Store

from .running import Running
from .unlabelled import Unlabelled

CONTROLS: tuple[Control, ...] = ("random", "waffle", "waffle_shared")
SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-1 accuracy in percent on labelled images: over all images, and as the mean over the classes with images."""

    images: float
    classes: float


@dataclass(frozen=True, slots=True)
class Precision:
    """Mean average precision in percent of multi-label images: at eleven points (VOC 2007), and over all points."""

    eleven_points: float
    plain: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a recipe is compared with.

    control: written instead of the recipe's prompts.
    seed: of the controls.
    labelled: images on which the templates, the recipe and all its controls are scored; the scores choose nothing.
    """

    control: Control | None = None
    seed: int = 0
    labelled: Labelled | None = None


@dataclass(frozen=True, slots=True)
class EnhanceSummary:
    """What `enhance_labels` did.

    output: the prompts file.
    classes, texts, captions: how many were written; captions are the texts mixed into the templates.
    without_captions: classes for which the index has no captions.
    untrusted: classes whose captions were all refused.
    sample: the first class with texts beside its templates, or else the first class, and the texts with most weight.
    before, after: how distinguishable the classes are by the templates alone, and by the prompts written.
    separated: which classes moved apart, and which moved closer.
    compared: scores on labelled images by method; empty without them.
    provenance: that of the prompts.
    seconds, bottleneck: seconds per stage, and the slowest stage.
    """

    output: Path
    classes: int
    texts: int
    captions: int
    without_captions: int
    untrusted: int
    sample: tuple[str, tuple[PromptText, ...]]
    before: Distinguishability
    after: Distinguishability
    separated: Separation
    compared: Mapping[str, Accuracy | Precision]
    provenance: Mapping[str, Any]
    seconds: Mapping[str, float]
    bottleneck: str

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.output}: {counted(self.classes, 'class')}, {counted(self.texts, 'text')}, "
            f"{self.captions} of them mixed in; {counted(self.without_captions, 'class')} without captions, "
            f"{self.untrusted} without trusted captions"
        )

    __repr__ = __str__


@on_screen.job()
def enhance(
    labels: AnyLabels,
    *,
    encoder: AnyEncoder | None = None,
    recipe: AnyRecipe = "default",
    index: AnyIndex | None = None,
    control: Control | None = None,
    seed: int = 0,
    images: AnyImages | Unlabelled | None = None,
    report: Report = on_screen,
) -> Prompts:
    """Turn class names into prompts by a recipe, and return them; `write_prompts` writes them to a file.

    labels: a list of names, a label file, or a LabelSet.
    encoder: an encoder or the name of a model; by default the one that the index records.
    recipe: a name of index/recipes.toml, a TOML file, or a Recipe.
    index: a folder, the address of a Qdrant server, or an open store.
    control: returned instead of the recipe's prompts.
    seed: of the control.
    images: images without labels that choose the texts, as for `enhance_labels`.
    report: called with the progress.

    Raises TypeError for arguments of other types, and ValueError as `rag_clip.prompts.enhance.enhance`.
    """
    labels, recipe = to_labels(labels), to_recipe(recipe)
    progress, running = Progress(report=report), Running(report=report)
    with ExitStack() as stack:
        store = None if index is None else stack.enter_context(opened(index))
        loaded, _ = remembering(to_encoder(encoder, recorded=_record(store)))
        found = (
            find_prompts(labels, encoder=loaded, recipe=recipe, store=store, progress=progress)
            if images is None
            else _chosen(labels, recipe, images, encoder=loaded, store=store, running=running, progress=progress)
        )
        return control_prompts(found, control, store=store, seed=seed) if control else found


@on_screen.job()
def enhance_labels(
    labels: AnyLabels,
    *,
    output: str | Path,
    encoder: AnyEncoder | None = None,
    recipe: AnyRecipe = "default",
    index: AnyIndex | None = None,
    comparison: Comparison = Comparison(),
    images: AnyImages | Unlabelled | None = None,
    running: Running = Running(),  # noqa: B008
) -> EnhanceSummary:
    """Write the prompts of a recipe to `output`, and compare them with the templates alone.

    labels, encoder, recipe, index: as for `enhance`.
    output: .parquet, or .json to edit.
    comparison: a control to write instead, and labelled images on which all are scored.
    images: images without labels, such as those to classify. They choose the texts of each class among templates alone
        and those of the recipe (see `enhance_rivals`, and `refinement.choose_texts`).
    running: processes, batch size, `force` and progress.

    Raises ValueError as `enhance` and `write_prompts`, and (without `force`) for an `output` of another program;
    BusyError if another process writes it.
    """
    labelled, control, report = comparison.labelled, comparison.control, running.report
    output, progress, labels, recipe = Path(output), Progress(report=report), to_labels(labels), to_recipe(recipe)
    check_prompts_path(output)
    kept = images.features_dir if isinstance(images, Unlabelled) else None
    with ExitStack() as stack:
        stack.enter_context(
            holding(
                [(output, "enhance"), (kept, "features")],
                inputs=[index_place(index), *recipe.files],
                force=running.force,
            )
        )
        store = None if index is None else stack.enter_context(opened(index))
        encoder, _ = remembering(to_encoder(encoder, recorded=_record(store)))
        found = (
            find_prompts(labels, encoder=encoder, recipe=recipe, store=store, progress=progress)
            if images is None
            else _chosen(labels, recipe, images, encoder=encoder, store=store, running=running, progress=progress)
        )
        controlled = partial(control_prompts, found, store=store, seed=comparison.seed)
        prompts = controlled(control) if control else found
        chosen = found.recorded.known.get("templates")
        plain = template_prompts(labels, templates=chosen or recipe.templates.choose())
        sets = {"templates": plain, prompts.recorded.method: prompts}
        if labelled and (recipe.retrieved or recipe.described):
            sets[recipe.name] = found
            sets |= {other: controlled(other) for other in CONTROLS if store or other != "random"}
        with progress.stage("encode texts"):
            texts = encode_texts(list(sets.values()), encoder, report=report)
            classifiers = {name: compose(variant, texts, encoder) for name, variant in sets.items()}
        write_prompts(replace(prompts, encoded=texts.encoded_by(encoder)), output)
    with progress.stage("compare"):
        first, second = classifiers["templates"], classifiers[prompts.recorded.method]
        before, after = (distinguishability(one.weights, one.scale, labels) for one in (first, second))
        separated = separation(first.weights, second.weights, labels)
        compared = {name: _score(one, labelled) for name, one in classifiers.items()} if labelled else {}
    return EnhanceSummary(
        output,
        len(labels),
        sum(map(len, prompts.texts)),
        _captions(prompts),
        prompts.recorded.without_captions,
        prompts.recorded.untrusted,
        _sample(prompts),
        before,
        after,
        separated,
        compared,
        prompts.provenance,
        dict(progress.seconds),
        progress.bottleneck,
    )


def _chosen(
    labels: LabelSet,
    recipe: Recipe,
    images: AnyImages | Unlabelled,
    *,
    encoder: Encoder,
    store: Store | None,
    running: Running,
    progress: Progress,
) -> Prompts:
    """Return the prompts that images choose among those of the recipe and templates alone."""
    encoder, memory = remembering(encoder)
    images = images if isinstance(images, Unlabelled) else Unlabelled(images)
    candidates = enhance_rivals(labels, encoder=encoder, recipe=recipe, store=store, progress=progress)
    sample = images.sample(images_to_choose(len(labels)), encoder, running=running, progress=progress)
    with progress.stage("encode texts"):
        texts = zero_shots(list(candidates.values()), encoder, report=progress.report)
    with progress.stage("choose"):
        chosen = choose_prompts(candidates, texts, sample.pooled).prompts
    *_, last = candidates.values()
    counts = {"without_captions": last.recorded.without_captions, "untrusted": last.recorded.untrusted}
    facts = chosen.recorded.chosen
    notes = [*([describe_choice(facts, len(labels))] if facts else []), *last.recorded.notes]
    encoded = memory.encoded(text.text for group in chosen.texts for text in group)
    return replace(chosen, provenance={**chosen.provenance, **counts, "notes": notes}, encoded=encoded)


def _record(store: Store | None) -> Mapping[str, Any]:
    """Return the fingerprint of the encoder that an index was built with; {} without an index."""
    return {} if store is None else asdict(store.card.encoder)


def _sample(prompts: Prompts) -> tuple[str, tuple[PromptText, ...]]:
    mixed = (row for row, group in enumerate(prompts.texts) if any(text.role == "context" for text in group))
    row = next(mixed, 0)
    added = [text for text in prompts.texts[row] if text.role == "context" and text.weight > 0] or prompts.texts[row]
    heaviest = sorted(added, key=lambda text: -text.weight)[:SAMPLES]
    return prompts.labels.names[row], tuple(heaviest)


def _captions(prompts: Prompts) -> int:
    return sum(text.role == "context" and text.weight > 0 for group in prompts.texts for text in group)


def _score(classifier: ZeroShot, labelled: Labelled) -> Accuracy | Precision:
    logits = classifier(labelled.features)
    targets = labelled.targets
    if isinstance(targets, SeveralLabels):
        scores, truth = logits.double().softmax(1).cpu(), targets.marks.cpu()
        eleven, plain = (mean_average_precision(scores, truth, eleven_points=points) for points in (True, False))
        return Precision(100 * eleven, 100 * plain)
    right = (logits.argmax(1) == targets).float()
    per_class = [right[targets == row].mean() for row in targets.unique()]  # type: ignore[no-untyped-call]
    return Accuracy(100 * float(right.mean()), 100 * float(sum(per_class) / len(per_class)))
