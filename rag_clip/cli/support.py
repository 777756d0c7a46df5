"""The verbs under `rag-clip support`: support sets from labelled, retrieved or painted images, and their union."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rag_clip.cli.classes import ReadableNames, read_classes
from rag_clip.cli.console import Console
from rag_clip.cli.recorded_encoder import RECORDED, RecordedEncoder, find_encoder, records_of
from rag_clip.cli.run import (
    FILTERS,
    IMAGES,
    SHOWN,
    EncoderOptions,
    Force,
    ImageColumn,
    LabelColumn,
    Seed,
    Shown,
    Workers,
    run,
)
from rag_clip.display import counted

if TYPE_CHECKING:
    from rag_clip.pipelines.support_retrieve import Containment, RetrievedSummary


Output = Annotated[Path, Parameter(name=["--output", "-o"], help="support.parquet")]
WithImages = Annotated[
    bool, Parameter(negative=(), help="Store the images in the support file, for heads that need a second encoder.")
]
MOST_NAMES = 5


@Parameter(name="*", group=FILTERS)
@dataclass(frozen=True)
class Filters:
    """The filters that a retrieved image must pass; see rag_clip/support/concentrate.py."""

    limit: Annotated[int, Parameter(help="Maximum number of images per class.")] = 16
    most_noise: Annotated[float, Parameter(help="Maximum probability that an image's caption is wrong.")] = 0.5
    near_cosine: Annotated[float, Parameter(help="Cosine from which on two images count as the same.")] = 0.995
    judge: Annotated[
        Literal["text", "images", "nothing"],
        Parameter(help="Whether an image must look like the class's text, like the other images, or neither."),
    ] = "text"
    least_agreement: Annotated[
        float, Parameter(help="Minimum share of a class's images that look like it; below, the class gets none.")
    ] = 0.3
    source_share: Annotated[float, Parameter(help="Maximum share of a class's limit from one source.")] = 1.0


def shots(
    images: Annotated[list[str], Parameter(negative=(), help=f"Labelled images: {IMAGES}")],
    /,
    *,
    labels: Annotated[Path, Parameter(help="The label file: .txt, .toml, .json or .parquet.")],
    output: Output,
    encoder: EncoderOptions,
    k: Annotated[int, Parameter(name=["--shots", "-k"], help="Number of images per class.")] = 16,
    seed: Seed = 0,
    views: Annotated[int, Parameter(help="Random crops averaged per image; 0 uses the whole image.")] = 10,
    validation: Annotated[
        Path | None,
        Parameter(
            help="Also write a support file of min(k, 4) other images per class, for `--validation` of `classify`, "
            "`learn` and `evaluate`."
        ),
    ] = None,
    with_images: WithImages = False,
    readable_names: ReadableNames = False,
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    workers: Workers = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Draw k labelled images per class."""

    def job(console: Console) -> object:
        from rag_clip.files.labels import cut_column
        from rag_clip.files.outputs import check_outputs
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.running import Running
        from rag_clip.pipelines.support_shots import ShotSettings, support_from_shots

        written = [(output, "support shots"), (validation, "support shots")]
        check_outputs(written, inputs=[images, cut_column(labels)[0], encoder.files], force=force)
        summary = support_from_shots(
            Images(images, image_column, label_column),
            read_classes(labels, console, readable=readable_names),
            output=output,
            encoder=encoder.load(console),
            k=k,
            settings=ShotSettings(seed, views, with_images),
            validation_output=validation,
            running=Running(workers, force=force, report=console.report),
        )
        console.say(str(summary))
        if summary.validation:
            console.say(f"{validation}: {counted(summary.validation, 'image')} for validation")
        if summary.failed:
            console.say(f"  {counted(summary.failed, 'drawn image')} cannot be used")
        if summary.repeated:
            console.say(f"  {counted(summary.repeated, 'repeated image')}; each is kept once, with all its classes")
        if summary.copies:
            copies = counted(summary.copies, "validation image")
            console.say(f"  {copies} left out, being the same as support images")
        say_classes(console, f"fewer than {counted(k, 'image')}", summary.short)
        say_classes(console, "no image", summary.missing)
        return summary

    return run(job, shown)


def retrieve(
    prompts: Annotated[
        Path, Parameter(help="A prompts file of `rag-clip enhance`: the classes, and the texts to search with.")
    ],
    /,
    *,
    index: Annotated[str, Parameter(help="An index of images: a folder, or http://HOST:6333/COLLECTION.")],
    output: Output,
    encoder: RecordedEncoder = RECORDED,
    search: Annotated[
        Literal["class", "texts", "captions"],
        Parameter(help="Search by the class's vector, by each of its texts, or for captions that contain its name."),
    ] = "class",
    candidates: Annotated[int, Parameter(help="Number of images retrieved per class, before the filters.")] = 100,
    filters: Filters | None = None,
    against: Annotated[
        list[str] | None,
        Parameter(negative=(), help="The images that will be classified; copies of them are left out."),
    ] = None,
    image_column: ImageColumn = "image",
    workers: Workers = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Retrieve images for class names from an index; keep those that look like the class and differ (SuS-LC)."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import Inputs, check_outputs
        from rag_clip.files.prompts import read_prompts
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.running import Running
        from rag_clip.pipelines.support_retrieve import retrieve_support
        from rag_clip.support.concentrate import Concentration
        from rag_clip.support.retrieved import ImageSearch

        found = find_encoder(encoder, records_of(prompts=[prompts], index=index))
        read: Inputs = [prompts, index, against, found.files]
        check_outputs([(output, "support retrieve")], inputs=read, force=force)
        summary = retrieve_support(
            read_prompts(prompts),
            output=output,
            index=index,
            encoder=found.load(console),
            search=ImageSearch(search, candidates),
            settings=Concentration(**asdict(filters or Filters())),
            against=Images(against or (), image_column),
            running=Running(workers, force=force, report=console.report),
        )
        _show_retrieved(console, summary)
        return summary

    return run(job, shown)


def corrections(
    corrections: Annotated[
        Path,
        Parameter(
            help="A table (.parquet, .csv, .tsv, .jsonl) with the row or the id of an image, and its right label."
        ),
    ],
    /,
    *,
    images: Annotated[
        list[str],
        Parameter(negative=(), consume_multiple=True, help="What was classified, or the predictions of it."),
    ],
    prompts: Annotated[Path, Parameter(help="The prompts that it was classified by, which name the classes.")],
    output: Output,
    encoder: RecordedEncoder = RECORDED,
    key: Annotated[
        str | None,
        Parameter(help="The column of both that names the image; by default row (from 0), or the only one of both."),
    ] = None,
    with_images: WithImages = False,
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    workers: Workers = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Encode the images whose labels a person has put right, as evidence beside other images."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import Inputs, check_outputs
        from rag_clip.files.prompts import read_prompts
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.running import Running
        from rag_clip.pipelines.support_corrections import support_from_corrections

        found = find_encoder(encoder, records_of(prompts=[prompts]))
        read: Inputs = [corrections, images, prompts, found.files]
        check_outputs([(output, "support corrections")], inputs=read, force=force)
        summary = support_from_corrections(
            corrections,
            images=Images(images, image_column, label_column),
            prompts=read_prompts(prompts),
            output=output,
            encoder=found.load(console),
            key=key,
            with_images=with_images,
            running=Running(workers, force=force, report=console.report),
        )
        console.say(str(summary))
        if summary.failed:
            console.say(f"  {counted(summary.failed, 'corrected image')} cannot be read")
        return summary

    return run(job, shown)


def merge(
    supports: Annotated[list[Path], Parameter(negative=(), help="Support files of the same classes and encoder.")],
    /,
    *,
    output: Output,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Merge support files; an image in several of them is kept once."""

    def job(console: Console) -> object:
        from rag_clip.files.support import merge_support_files

        images, repeated = merge_support_files(supports, output, force=force)
        console.say(f"{output}: {counted(images, 'image')}; {counted(repeated, 'repeated image')} dropped")
        return {"output": output, "images": images, "repeated": repeated}

    return run(job, shown)


def evidence(
    supports: Annotated[
        list[Path], Parameter(negative=(), help="Support files or files of evidence, of the same classes and encoder.")
    ],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The file, such as evidence.safetensors.")],
    corrected: Annotated[float, Parameter(help="What an image that a person put right counts.")] = 2.0,
    retrieved: Annotated[float, Parameter(help="What an image found for a name counts, times its relevance.")] = 0.5,
    synthesised: Annotated[float, Parameter(help="What a painted image counts, times its relevance.")] = 0.25,
    without: Annotated[
        list[str] | None, Parameter(negative=(), help="Sources to leave out, such as synthesised.")
    ] = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Sum support files, a source for each origin of their images, for the head `evidence`; no image is kept."""

    def job(console: Console) -> object:
        from rag_clip.classifiers.anchored import EvidenceSettings
        from rag_clip.pipelines.running import Running
        from rag_clip.pipelines.support_evidence import support_evidence

        made = support_evidence(
            supports,
            output=output,
            weights=EvidenceSettings(corrected=corrected, retrieved=retrieved, synthesised=synthesised),
            without=without or (),
            running=Running(force=force, report=console.report),
        )
        console.say(f"{output}: {counted(len(made.labels), 'class')}, {counted(made.width, 'dimension')}")
        weights = {name: float(source.counts.sum()) for name, source in made.sources.items()}
        for name, weight in weights.items():
            console.say(f"  {name}: {counted(made.images.get(name, 0), 'image')}, which count as {weight:.4g}")
        say_classes(console, "no image", made.missing)
        return {"output": output, "images": made.images, "weights": weights, "missing": made.missing}

    return run(job, shown)


def _show_retrieved(console: Console, summary: RetrievedSummary) -> None:
    console.say(str(summary))
    for reason, count in summary.dropped.items():
        console.say(f"  dropped, {reason}: {count}")
    say_agreement(console, summary.agreement)
    say_classes(console, "too few images look like them, so they use text alone", summary.fallen_back)
    say_classes(console, "no image", summary.missing)
    if summary.containment:
        console.say(f"  {_describe(summary.containment)}")
    console.stages(summary.seconds)


def _describe(found: Containment) -> str:
    return (
        f"{found.contained} of {found.known} images to classify ({found.rate:.1%}) are among the retrieved ones: "
        f"{found.exact} with the same bytes, {found.perceptual} with a near hash, {found.cosine} with a cosine of at "
        f"least {found.threshold:.4f}; this finds {found.recall:.0%} of copies made as a test"
    )


def say_agreement(console: Console, agreement: Mapping[str, float]) -> None:
    """Print the mean share of a class's images that look like it; nothing if none was measured."""
    if agreement:
        mean = sum(agreement.values()) / len(agreement)
        classes = counted(len(agreement), "class")
        console.say(f"  images that look like their class: {mean:.0%}, the mean over {classes}")


def say_classes(console: Console, what: str, names: Iterable[str]) -> None:
    """Print the number of classes in a case and the first names; nothing if there are none."""
    listed = list(names)
    if listed:
        more = ", ..." if len(listed) > MOST_NAMES else ""
        console.say(f"  {what}: {counted(len(listed), 'class')} ({', '.join(listed[:MOST_NAMES])}{more})")


def synthesise(
    prompts: Annotated[
        Path, Parameter(help="A prompts file of `rag-clip enhance`: the classes, and the texts to paint.")
    ],
    /,
    *,
    output: Output,
    encoder: RecordedEncoder = RECORDED,
    painter: Annotated[str, Parameter(help="demo, or a text-to-image model of diffusers: a hub id or a folder.")],
    per_class: Annotated[int, Parameter(help="Number of images painted per class.")] = 16,
    keep: Annotated[int, Parameter(help="Number of these kept per class, the nearest to the class's vector.")] = 8,
    wording: Annotated[
        Literal["templates", "sentences"], Parameter(help="Paint the templates, or the descriptions and captions.")
    ] = "templates",
    guidance: Annotated[
        float | None, Parameter(help="Guidance scale; default 9.5 for diffusers; few-step models need 0.")
    ] = None,
    steps: Annotated[
        int | None, Parameter(help="Denoising steps; default 85 for diffusers; few-step models need 1 to 4.")
    ] = None,
    size: Annotated[tuple[int, int] | None, Parameter(help="Width and height; by default those of the model.")] = None,
    seed: Seed = 0,
    batch: Annotated[int, Parameter(help="Number of images painted at once.")] = 8,
    paintings: Annotated[
        Path | None, Parameter(help="Folder of all painted images; by default the output without .parquet.")
    ] = None,
    with_images: WithImages = False,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Paint images for class names; keep those that look most like the class (SuS-SD)."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.files.prompts import read_prompts
        from rag_clip.pipelines.running import Running
        from rag_clip.pipelines.support_synthesise import synthesise_support
        from rag_clip.support.painters import load_painter
        from rag_clip.support.synthesised import Synthesis

        written = [(output, "support synthesise"), (paintings or output.with_suffix(""), "paintings")]
        found = find_encoder(encoder, records_of(prompts=[prompts]))
        check_outputs(written, inputs=[prompts, found.files, None if painter == "demo" else painter], force=force)
        texts, loaded = read_prompts(prompts), found.load(console)
        with console.loading(f"the painter {painter}"):
            brush = load_painter(
                painter, guidance=guidance, steps=steps, size=size, device=encoder.device, precision=encoder.precision
            )
        summary = synthesise_support(
            texts,
            output=output,
            encoder=loaded,
            painter=brush,
            settings=Synthesis(per_class, keep, wording, seed, batch, with_images),
            paintings=paintings,
            running=Running(force=force, report=console.report),
        )
        console.say(str(summary))
        if summary.black:
            console.say(f"  black images, withheld by the painter: {summary.black}")
        say_agreement(console, summary.agreement)
        say_classes(console, "no image", summary.missing)
        console.say(f"  all painted images are in {summary.paintings}")
        console.stages(summary.seconds)
        return summary

    return run(job, shown)
