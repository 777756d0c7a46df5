"""`rag-clip enhance`: class names to prompts, by a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rag_clip.cli.classes import ReadableNames, noted
from rag_clip.cli.console import Console
from rag_clip.cli.recorded_encoder import RECORDED, RecordedEncoder, find_encoder, records_of
from rag_clip.cli.run import (
    CAPTIONS,
    COMPARING,
    SHOWN,
    Force,
    ImageColumn,
    LabelColumn,
    Shown,
    run,
    toml_files,
)

if TYPE_CHECKING:
    from rag_clip.data import LabelSet
    from rag_clip.pipelines.enhance import EnhanceSummary
    from rag_clip.prompts.recipe import Recipe


OPTIONS = {"limit": "captions"}  # of retrieval, where the option has another name


@Parameter(name="*", group=CAPTIONS)
@dataclass(frozen=True)
class Overrides:
    """Settings of retrieval that take the place of the recipe's."""

    weight: Annotated[float | None, Parameter(help="Weight of the captions together; the templates have the rest.")] = (
        None
    )
    limit: Annotated[int | None, Parameter(name="--captions", help="Captions per class, at most.")] = None
    search: Annotated[
        Literal["dense", "lexical", "hybrid"] | None,
        Parameter(help="How captions are searched: by meaning, by words, or by both."),
    ] = None
    candidates: Annotated[int | None, Parameter(help="Captions searched per class, before the filter.")] = None
    keep: Annotated[
        Literal["token", "substring", "phrase"] | None, Parameter(help="How a caption must hold the class name.")
    ] = None
    names: Annotated[
        Literal["kept", "dropped"] | None, Parameter(help="Class names in captions: as published, or left out.")
    ] = None
    modality: Annotated[
        Literal["text", "image"] | None,
        Parameter(help="Whether captions are found by their own vector or their image's."),
    ] = None


def enhance(
    labels: Annotated[
        Path | None, Parameter(help="The label file, or FILE.parquet:COLUMN; or else --labels-from.")
    ] = None,
    /,
    *,
    labels_from: Annotated[
        str | None,
        Parameter(help="Take the classes of labelled images, PLACE[:COLUMN]: their names in a Hugging Face dataset."),
    ] = None,
    readable_names: ReadableNames = False,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="prompts.parquet, or prompts.json to edit.")],
    encoder: RecordedEncoder = RECORDED,
    index: Annotated[str | None, Parameter(help="The caption index; not needed for templates.")] = None,
    recipe: Annotated[
        str,
        Parameter(
            help="A name of index/recipes.toml (templates, repe, repe_published, default), FILE.toml or FILE.toml:NAME."
        ),
    ] = "default",
    limit: Annotated[int | None, Parameter(help="Take the first classes alone, to try a command.")] = None,
    overrides: Overrides | None = None,
    control: Annotated[
        Literal["random", "waffle", "waffle_shared"] | None,
        Parameter(
            group=COMPARING,
            help="Put random captions or words in the place of the texts found, or, as WaffleCLIP was published, words "
            "that all classes share in the place of all texts.",
        ),
    ] = None,
    seed: Annotated[int, Parameter(group=COMPARING, help="Seed of the controls.")] = 0,
    compare: Annotated[
        list[str] | None,
        Parameter(
            group=COMPARING, negative=(), help="Labelled images, as for evaluate: score templates and controls too."
        ),
    ] = None,
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    format: Annotated[Literal["parquet", "json"] | None, Parameter(help="By the output's suffix by default.")] = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Turn a label file (.txt, .toml, .json, .parquet) into prompts: templates, and texts found for each class."""

    def job(console: Console) -> object:
        from rag_clip.files.labels import cut_column
        from rag_clip.files.outputs import check_outputs
        from rag_clip.files.prompts import check_prompts_path
        from rag_clip.images.labelled import read_labelled
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.enhance import Comparison, enhance_labels
        from rag_clip.pipelines.running import Running
        from rag_clip.prompts.recipe import load_recipe

        path = output.with_suffix(f".{format}") if format else output
        check_prompts_path(path)
        chosen = _override(load_recipe(recipe), overrides)
        label_set = _limited(_read_classes(labels, labels_from), limit, console)
        if limit is not None and compare:
            raise ValueError("--compare measures all classes; leave out --limit")
        label_set = noted(label_set, console, readable=readable_names)
        found = find_encoder(encoder, records_of(index=index))
        read = [
            labels and cut_column(labels)[0],
            _place(labels_from)[0],
            index,
            compare,
            found.files,
            toml_files(recipe),
            chosen.files,
        ]
        check_outputs([(path, "enhance")], inputs=read, force=force)
        loaded = found.load(console)
        labelled = compare and read_labelled(
            Images(compare, image_column, label_column), label_set, encoder=loaded, report=console.report
        )
        summary = enhance_labels(
            label_set,
            output=path,
            encoder=loaded,
            recipe=chosen,
            index=index,
            comparison=Comparison(control, seed, labelled or None),
            running=Running(force=force, report=console.report),
        )
        _show(console, summary)
        known = f" --index {quote(index)}" if index else ""
        console.say(f"next: rag-clip classify IMAGES --prompts {quote(str(path))}{known} -o predictions.parquet")
        return summary

    return run(job, shown)


def _read_classes(labels: Path | None, labels_from: str | None) -> LabelSet:
    if (labels is None) == (labels_from is None):
        raise ValueError("give the classes once: a label file, or --labels-from IMAGES[:COLUMN]")
    if labels is not None:
        from rag_clip.files.labels import read_labels

        return read_labels(labels)
    from rag_clip.images.labelled import labels_from as read_from

    place, column = _place(labels_from)
    classes: LabelSet = read_from([place or ""], label_column=column)
    return classes


def _limited(labels: LabelSet, limit: int | None, console: Console) -> LabelSet:
    from rag_clip.files.labels import first_classes

    if limit is None or limit >= len(labels):
        return labels
    console.say(f"a trial on the first {limit} of {len(labels)} classes (--limit)")
    return first_classes(labels, limit)


def _place(labels_from: str | None) -> tuple[str | None, str]:
    """Cut PLACE:COLUMN; a place may hold colons of its own, as URLs do."""
    place, _, column = (labels_from or "").rpartition(":")
    if labels_from is None or not place or "/" in column or Path(labels_from).exists():
        return labels_from, "label"
    return place, column


def _override(recipe: Recipe, overrides: Overrides | None) -> Recipe:
    given = {key: value for key, value in asdict(overrides or Overrides()).items() if value is not None}
    if not given:
        return recipe
    if recipe.retrieved is None:
        first = next(iter(given))
        raise ValueError(
            f"recipe {recipe.name!r} retrieves no captions, so --{OPTIONS.get(first, first)} says nothing to it"
        )
    if given.get("limit", 0) > recipe.retrieved.candidates:
        given.setdefault("candidates", given["limit"])
    return replace(recipe, retrieved=replace(recipe.retrieved, **given))


def _show(console: Console, summary: EnhanceSummary) -> None:
    console.say(str(summary))
    for note in summary.provenance["notes"]:
        console.say(f"  {note}")
    judged = {"templates": summary.before, "these prompts": summary.after}
    console.table(
        "told apart (lower is better)",
        {
            name: {
                "uniformity": "-" if one.uniformity is None else f"{one.uniformity:.3f}",
                "expected confusion": f"{one.confusion:.4f}",
            }
            for name, one in judged.items()
        },
    )
    label, texts = summary.sample
    console.say(f"texts of {label!r}, such as:")
    for text in texts:
        console.say(f"  {text.weight:.4f}  {text.text}")
    if summary.compared:
        numbers = {name: asdict(one) for name, one in summary.compared.items()}
        title = "top-1, %" if "images" in next(iter(numbers.values())) else "mean average precision, %"
        cells = {
            name: {key.replace("_", " "): f"{value:.1f}" for key, value in one.items()} for name, one in numbers.items()
        }
        console.table(title, cells)
    console.stages(summary.seconds)
