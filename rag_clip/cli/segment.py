"""The verb `rag-clip segment`: where in images the classes are, as masks and as overlays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.recorded_encoder import RECORDED, RecordedEncoder, find_encoder, records_of
from rag_clip.cli.run import IMAGES, SHOWN, Force, ImageColumn, Shown, Workers, run
from rag_clip.display import counted

if TYPE_CHECKING:
    from rag_clip.evaluation.segmentation import MaskQuality
    from rag_clip.pipelines.segment import SegmentSummary

CLASSES_SHOWN = 10


def segment(
    images: Annotated[list[str], Parameter(negative=(), help=IMAGES)],
    /,
    *,
    prompts: Annotated[Path, Parameter(help="A file that `rag-clip enhance` wrote.")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="masks.parquet, a row per image and class.")],
    overlays: Annotated[
        Path | None, Parameter(help="Folder for a PNG file per image: its masks in colour, and a legend.")
    ] = None,
    background: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            consume_multiple=True,
            help="What is no class: a number, below which the best cosine of a pixel is background, or texts.",
        ),
    ] = None,
    truth: Annotated[
        Path | None, Parameter(help="Known masks to compare with, in a file such as this verb writes: prints the mIoU.")
    ] = None,
    least_share: Annotated[
        float, Parameter(help="Classes that cover less than this share of an image get no mask.")
    ] = 0.005,
    limit: Annotated[int | None, Parameter(help="Segment only the first rows, to try a command.")] = None,
    encoder: RecordedEncoder = RECORDED,
    image_column: ImageColumn = "image",
    workers: Workers = None,
    batch_size: Annotated[int, Parameter(help="Maximum number of images encoded at once.")] = 256,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Segment images by the texts of classes, with a model that learned to match patches (`adapt --objective pacl`)."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.running import Running
        from rag_clip.pipelines.segment import Masks, segment_images, segment_outputs

        masks = Masks(_background(background or []), least_share)
        found = find_encoder(encoder, records_of(prompts=[prompts]))
        check_outputs(segment_outputs(output, overlays), inputs=[images, prompts, truth, found.files], force=force)
        summary = segment_images(
            Images(images, image_column, limit=limit),
            prompts=prompts,
            output=output,
            encoder=found.load(console),
            masks=masks,
            overlays=overlays,
            truth=truth,
            running=Running(workers, batch_size, force, console.report),
        )
        _show(console, summary)
        return summary

    return run(job, shown)


def say_quality(console: Console, quality: MaskQuality) -> None:
    """Print how well masks agree with known ones, and the classes where they agree least."""
    worst = sorted(quality.iou.items(), key=lambda pair: pair[1])[:CLASSES_SHOWN]
    console.say(f"{quality}, {counted(len(quality.iou), 'class')}, background included")
    console.table("lowest", {name: {"IoU": f"{value:.1%}"} for name, value in worst})


def _background(given: list[str]) -> float | list[str] | None:
    """Return a threshold for one number, the texts for others, None for nothing."""
    if len(given) == 1:
        try:
            return float(given[0])
        except ValueError:
            pass
    return given or None


def _show(console: Console, summary: SegmentSummary) -> None:
    console.say(str(summary))
    if not summary.learned:
        console.say(
            "the model did not learn to match patches, so these are raw patch tokens, which seldom show where a class "
            "is; adapt one with `rag-clip adapt PAIRS --objective pacl --lock both`"
        )
    first = dict(list(summary.classes.items())[:CLASSES_SHOWN])
    if first:
        console.table("class", {name: {"images": str(images)} for name, images in first.items()})
    if others := len(summary.classes) - len(first):
        console.say(f"  and {counted(others, 'other class')}")
    if quality := summary.quality:
        say_quality(console, quality)
    if summary.overlays is not None:
        console.say(f"overlays: {summary.overlays}")
    console.stages(summary.seconds)
