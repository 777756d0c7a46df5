"""The verb `rag-clip enhance`: turn class names into prompts with a recipe."""

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
    Workers,
    run,
    toml_files,
)

if TYPE_CHECKING:
    from rag_clip.data import LabelSet
    from rag_clip.pipelines.enhance import EnhanceSummary
    from rag_clip.prompts.recipe import Recipe


OPTIONS = {"limit": "captions"}  # settings of retrieval whose option has another name


@Parameter(name="*", group=CAPTIONS)
@dataclass(frozen=True)
class Overrides:
    """Settings of retrieval that replace those of the recipe."""

    weight: Annotated[
        float | None, Parameter(help="Total weight of the captions of a class; the templates have the rest.")
    ] = None
    limit: Annotated[int | None, Parameter(name="--captions", help="Maximum number of captions per class.")] = None
    search: Annotated[
        Literal["dense", "lexical", "hybrid"] | None,
        Parameter(help="How captions are searched: by meaning, by words, or by both."),
    ] = None
    candidates: Annotated[int | None, Parameter(help="Captions retrieved per class, before the filter.")] = None
    keep: Annotated[
        Literal["token", "substring", "phrase"] | None, Parameter(help="How a caption must contain the class name.")
    ] = None
    names: Annotated[
        Literal["kept", "dropped"] | None,
        Parameter(help="Whether class names stay in captions, as published, or are removed."),
    ] = None
    modality: Annotated[
        Literal["text", "image"] | None,
        Parameter(help="Whether captions are found by their own vector or by that of their image."),
    ] = None
    plurals: Annotated[
        bool | None,
        Parameter(negative=(), help="Also find plurals and singulars of English names (install rag-clip[plurals])."),
    ] = None


def enhance(
    labels: Annotated[
        Path | None, Parameter(help="The label file, or FILE.parquet:COLUMN; alternatively --labels-from.")
    ] = None,
    /,
    *,
    labels_from: Annotated[
        str | None,
        Parameter(help="Read the classes from labelled images, PLACE[:COLUMN], such as a Hugging Face dataset."),
    ] = None,
    readable_names: ReadableNames = False,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="prompts.parquet, or prompts.json to edit by hand.")
    ],
    encoder: RecordedEncoder = RECORDED,
    index: Annotated[str | None, Parameter(help="The caption index; not needed for templates.")] = None,
    recipe: Annotated[
        str,
        Parameter(
            help="A name in index/recipes.toml (templates, repe, repe_published, default), FILE.toml or FILE.toml:NAME."
        ),
    ] = "default",
    descriptions: Annotated[
        list[Path] | None,
        Parameter(
            negative=(),
            consume_multiple=True,
            help="Files of sentences per class (CuPL, DCLIP, LaBo, ELEVATER), mixed in at half of the weight.",
        ),
    ] = None,
    limit: Annotated[int | None, Parameter(help="Use only the first classes, to try a command.")] = None,
    overrides: Overrides | None = None,
    control: Annotated[
        Literal["random", "waffle", "waffle_shared"] | None,
        Parameter(
            group=COMPARING,
            help="Replace the retrieved texts by random captions (random) or random words (waffle), or all texts by "
            "random words that all classes share (waffle_shared, WaffleCLIP as published).",
        ),
    ] = None,
    seed: Annotated[int, Parameter(group=COMPARING, help="Seed of the controls.")] = 0,
    compare: Annotated[
        list[str] | None,
        Parameter(
            group=COMPARING,
            negative=(),
            help="Labelled images, as for evaluate, to compare the accuracy of these prompts, templates and controls.",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            help="Images to classify later, whose labels are not read: they choose, class by class, between templates "
            "alone and the texts of the recipe.",
        ),
    ] = None,
    features: Annotated[
        Path | None, Parameter(help="Folder that keeps the features of --images, for `classify --features`.")
    ] = None,
    workers: Workers = None,
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    format: Annotated[
        Literal["parquet", "json"] | None, Parameter(help="The format; by default the output's suffix.")
    ] = None,
    html: Annotated[
        Path | None, Parameter(help="Also write a page to explore: all classes, their texts and nearest classes.")
    ] = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Turn a label file (.txt, .toml, .json, .parquet) into prompts: templates, and texts retrieved for each class."""

    def job(console: Console) -> object:
        from rag_clip.files.labels import cut_column
        from rag_clip.files.outputs import check_outputs
        from rag_clip.files.prompts import check_prompts_path
        from rag_clip.images.labelled import read_labelled
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.enhance import Comparison, enhance_labels
        from rag_clip.pipelines.explore import check_page_path, explore_prompts
        from rag_clip.pipelines.running import Running
        from rag_clip.pipelines.unlabelled import Unlabelled
        from rag_clip.prompts.recipe import Described, load_recipe

        path = output.with_suffix(f".{format}") if format else output
        check_prompts_path(path)
        chosen = _override(load_recipe(recipe), overrides)
        if descriptions:
            chosen = replace(chosen, described=Described(tuple(descriptions)))
        label_set = _limited(_read_classes(labels, labels_from), limit, console)
        if limit is not None and compare:
            raise ValueError("--compare needs all classes; leave out --limit")
        label_set = noted(label_set, console, readable=readable_names)
        found = find_encoder(encoder, records_of(index=index))
        read = [
            labels and cut_column(labels)[0],
            _place(labels_from)[0],
            index,
            compare,
            images,
            found.files,
            toml_files(recipe),
            chosen.files,
        ]
        if features and not images:
            raise ValueError("--features keeps the features of --images; give these too, or leave it out")
        if html:
            check_page_path(html)
        check_outputs([(path, "enhance"), (features, "features"), (html, "enhance")], inputs=read, force=force)
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
            images=Unlabelled(Images(images, image_column), features) if images else None,
            running=Running(workers, force=force, report=console.report),
        )
        _show(console, summary)
        if html:
            explore_prompts(path, output=html, encoder=loaded, running=Running(force=force, report=console.report))
            console.say(f"page to explore: {html}")
        known = f" --index {quote(index)}" if index else ""
        console.say(f"next: rag-clip classify IMAGES --prompts {quote(str(path))}{known} -o predictions.parquet")
        return summary

    return run(job, shown)


def _read_classes(labels: Path | None, labels_from: str | None) -> LabelSet:
    if (labels is None) == (labels_from is None):
        raise ValueError("give the classes in one way: a label file, or --labels-from IMAGES[:COLUMN]")
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
    console.say(f"a trial with the first {limit} of {len(labels)} classes (--limit)")
    return first_classes(labels, limit)


def _place(labels_from: str | None) -> tuple[str | None, str]:
    """Split PLACE:COLUMN; a place may contain colons, as URLs do."""
    place, _, column = (labels_from or "").rpartition(":")
    if labels_from is None or not place or "/" in column or Path(labels_from).exists():
        return labels_from, "label"
    return place, column


def _override(recipe: Recipe, overrides: Overrides | None) -> Recipe:
    settings = {key: value for key, value in asdict(overrides or Overrides()).items() if value is not None}
    if not settings:
        return recipe
    if recipe.retrieved is None:
        first = next(iter(settings))
        raise ValueError(
            f"recipe {recipe.name!r} retrieves no captions, so --{OPTIONS.get(first, first)} has no effect; leave it "
            "out, or choose another recipe"
        )
    if settings.get("limit", 0) > recipe.retrieved.candidates:
        settings.setdefault("candidates", settings["limit"])
    return replace(recipe, retrieved=replace(recipe.retrieved, **settings))


def _show(console: Console, summary: EnhanceSummary) -> None:
    from rag_clip.data import read_provenance

    console.say(str(summary))
    for note in read_provenance(summary.provenance).notes:
        console.say(f"  {note}")
    separations = {"templates": summary.before, "these prompts": summary.after}
    console.table(
        "class separation (lower is better)",
        {
            name: {
                "uniformity": "-" if each.uniformity is None else f"{each.uniformity:.3f}",
                "expected confusion": f"{each.confusion:.4f}",
            }
            for name, each in separations.items()
        },
    )
    label, texts = summary.sample
    console.say(f"texts of {label!r}, such as:")
    for text in texts:
        console.say(f"  {text.weight:.4f}  {text.text}")
    if summary.compared:
        numbers = {name: asdict(scores) for name, scores in summary.compared.items()}
        title = "top-1, %" if "images" in next(iter(numbers.values())) else "mean average precision, %"
        cells = {
            name: {key.replace("_", " "): f"{value:.1f}" for key, value in scores.items()}
            for name, scores in numbers.items()
        }
        console.table(title, cells)
    console.stages(summary.seconds)
