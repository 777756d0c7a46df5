"""The verb `rag-clip discover`: find names for images in an index of captions."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.recorded_encoder import RECORDED, RecordedEncoder, find_encoder, records_of
from rag_clip.cli.run import IMAGES, SHOWN, Force, ImageColumn, Shown, Workers, run
from rag_clip.display import counted

if TYPE_CHECKING:
    from rag_clip.pipelines.discover import DiscoverSummary

SHOWN_NAMES = 10


def discover(
    images: Annotated[list[str], Parameter(negative=(), help=IMAGES)],
    /,
    *,
    index: Annotated[str, Parameter(help="The caption index.")],
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="labels.toml, with what speaks for each name as comments.")
    ],
    prompts: Annotated[
        Path | None, Parameter(help="Classes that are known already: names are found for what does not fit them.")
    ] = None,
    predictions: Annotated[
        Path | None,
        Parameter(help="What `classify --open` wrote of IMAGES: names are found for the rejected images only."),
    ] = None,
    least: Annotated[float, Parameter(help="Fewest images that a name must explain, of those compared.")] = 4.0,
    most: Annotated[int, Parameter(help="Maximum number of names, those of most images first.")] = 100,
    sample: Annotated[int, Parameter(help="Images compared, chosen at random.")] = 5_000,
    limit: Annotated[int | None, Parameter(help="Use only the first images, to try a command.")] = None,
    features: Annotated[
        Path | None, Parameter(help="Folder that keeps image features, for `classify --features`.")
    ] = None,
    html: Annotated[
        Path | None, Parameter(help="Also write a page: images and captions of each name, and what it would take.")
    ] = None,
    encoder: RecordedEncoder = RECORDED,
    image_column: ImageColumn = "image",
    workers: Workers = None,
    batch_size: Annotated[int, Parameter(help="Images encoded at once.")] = 256,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Find names for IMAGES without labels in the captions nearest to them, as a label file to edit."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.discover import Naming
        from rag_clip.pipelines.discover import discover as find_names
        from rag_clip.pipelines.explore import check_page_path
        from rag_clip.pipelines.explore_names import explore_names
        from rag_clip.pipelines.running import Running
        from rag_clip.pipelines.unlabelled import Unlabelled

        naming = Naming(least, most, sample)
        found = find_encoder(encoder, records_of(prompts=[] if prompts is None else [prompts], index=index))
        if html:
            check_page_path(html)
        check_outputs(
            [(output, "discover"), (features, "features"), (html, "discover")],
            inputs=[images, index, prompts, predictions, found.files],
            force=force,
        )
        summary = find_names(
            Unlabelled(Images(images, image_column, limit=limit), features),
            index=index,
            output=output,
            encoder=found.load(console),
            prompts=prompts,
            predictions=predictions,
            naming=naming,
            running=Running(workers, batch_size, force=force, report=console.report),
        )
        _show(console, summary)
        if html:
            running = Running(force=force, report=console.report)
            explore_names(summary, Images(images, image_column, limit=limit), output=html, running=running)
            console.say(f"page: {html}")
        console.say(
            f"next: edit {output}, then rag-clip enhance {quote(str(output))} --index {quote(index)} -o prompts.parquet"
        )
        return summary

    return run(job, shown)


def _show(console: Console, summary: DiscoverSummary) -> None:
    console.say(str(summary))
    if not summary.names:
        console.say(
            "no phrase of the captions explains enough images; lower --least, or give an index of other captions"
        )
    for one in summary.names[:SHOWN_NAMES]:
        takes = ", ".join(
            f"{round(images)} from {name}" for name, images in list(one.takes.items())[:3] if round(images)
        )
        about = f"about {counted(round(one.images), 'image')}" + (f", {takes}" if takes else "")
        console.say(f"  {one.name}  ({about}; {one.captions[0] if one.captions else 'no caption'})")
    console.stages(summary.seconds)
