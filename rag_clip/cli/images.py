"""The verbs `rag-clip index download` and `index images`: download images, and index them with their captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.index import Cleaning, Index, Retry, Schema, load_named_cleaning, say_dropped
from rag_clip.cli.run import (
    COLUMNS,
    IMAGES,
    SHOWN,
    EncoderOptions,
    Force,
    ImageColumn,
    Ray,
    Shown,
    Workers,
    run,
    spread,
    toml_files,
)


def images(
    pairs: Annotated[list[str], Parameter(negative=(), help=f"Images with captions: {IMAGES}")],
    /,
    *,
    index: Index,
    encoder: EncoderOptions,
    image_column: ImageColumn = "image",
    caption_column: Annotated[str, Parameter(group=COLUMNS, help="The column of the captions.")] = "caption",
    cleaning: Cleaning = "default",
    noise: Annotated[
        bool, Parameter(help="Estimate the probability that each caption does not match its image (NLIP).")
    ] = True,
    shards: Annotated[Path | None, Parameter(help="Folder of the embedded pairs; default INDEX.shards.")] = None,
    schema: Schema = None,
    workers: Workers = None,
    ray: Ray = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Write image-caption pairs to an index, each with a vector of the image and one of the caption."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.images import choose_shards, index_images
        from rag_clip.pipelines.running import Running
        from rag_clip.store import load_schema

        one, elsewhere = spread(encoder, ray)
        read = [pairs, schema, toml_files(cleaning), encoder.files]
        check_outputs([(index, "index"), (choose_shards(index, shards), "shards")], inputs=read, force=force)
        summary = index_images(
            Images(pairs, image_column, caption_column=caption_column),
            index=index,
            encoder=one.load(console),
            shards=shards,
            cleaning=load_named_cleaning(cleaning),
            noise=noise,
            schema=load_schema(schema) if schema else None,
            running=Running(workers, force=force, report=console.report, elsewhere=elsewhere),
        )
        console.say(str(summary))
        for reason, count in summary.reasons.items():
            console.say(f"  failed, {reason}: {count}")
        if summary.failed:
            console.say(f"  all failed rows: {summary.failures}")
        say_dropped(console, summary.dropped)
        console.stages(summary.seconds)
        return summary

    return run(job, shown)


def download(
    lists: Annotated[list[Path], Parameter(negative=(), help="Parquet, CSV or text files of image URLs.")],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Folder of the webdataset tars.")],
    url_column: Annotated[str, Parameter(group=COLUMNS, help="The column of the URLs.")] = "url",
    caption_column: Annotated[
        str | None, Parameter(group=COLUMNS, help="The column of the captions, if there is one.")
    ] = "caption",
    retry_failed: Retry = False,
    allow_private: Annotated[bool, Parameter(negative=(), help="Also download from private networks.")] = False,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Download images with img2dataset (extra `download`), as webdataset tars for `index images`."""

    def job(console: Console) -> object:
        from rag_clip.pipelines.download import Fetching, download_images
        from rag_clip.pipelines.running import Running

        summary = download_images(
            lists,
            output=output,
            url_column=url_column,
            caption_column=caption_column,
            retry_failed=retry_failed,
            fetching=Fetching(allow_private=allow_private),
            running=Running(force=force, report=console.report),
        )
        console.say(str(summary))
        for reason, count in summary.errors.items():
            console.say(f"  failed, {reason}: {count}")
        return summary

    return run(job, shown)
