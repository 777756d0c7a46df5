"""The verb `rag-clip support synthesise`: images painted from class prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.recorded_encoder import RECORDED, RecordedEncoder, find_encoder, records_of
from rag_clip.cli.run import SHOWN, Force, Seed, Shown, run
from rag_clip.cli.support import Output, WithImages, say_agreement, say_classes, support_app


@support_app.command
def synthesise(
    prompts: Annotated[Path, Parameter(help="Prompts of `rag-clip enhance`: the classes, and the texts to paint.")],
    /,
    *,
    output: Output,
    encoder: RecordedEncoder = RECORDED,
    painter: Annotated[str, Parameter(help="demo, or a text-to-image model of diffusers: a hub id or a folder.")],
    per_class: Annotated[int, Parameter(help="Images painted per class.")] = 16,
    keep: Annotated[int, Parameter(help="Images of them kept per class, those nearest to its embedding.")] = 8,
    wording: Annotated[
        Literal["templates", "sentences"], Parameter(help="Paint the templates, or the descriptions and captions.")
    ] = "templates",
    guidance: Annotated[
        float | None, Parameter(help="How far to follow the text; 9.5 for diffusers, few-step models want 0.")
    ] = None,
    steps: Annotated[
        int | None, Parameter(help="Denoising steps; 85 for diffusers, few-step models want 1 to 4.")
    ] = None,
    size: Annotated[tuple[int, int] | None, Parameter(help="Width and height; the model's own by default.")] = None,
    seed: Seed = 0,
    batch: Annotated[int, Parameter(help="Images painted at once.")] = 8,
    paintings: Annotated[
        Path | None, Parameter(help="Folder that keeps every image painted; by default the output without .parquet.")
    ] = None,
    with_images: WithImages = False,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Paint images for class names, keep those that look most like them (SuS-SD)."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.files.prompts import read_prompts
        from rag_clip.pipelines.support_synthesise import synthesise_support
        from rag_clip.support.painters import load_painter

        written = [(output, "support synthesise"), (paintings or output.with_suffix(""), "paintings")]
        found = find_encoder(encoder, records_of(prompts=[prompts]))
        check_outputs(written, inputs=[prompts, found.files, None if painter == "demo" else painter], force=force)
        texts, loaded = read_prompts(prompts), found.load(console)
        with console.loading(f"the painter {painter}"):
            brush = load_painter(
                painter, guidance=guidance, steps=steps, size=size, device=encoder.device, precision=encoder.precision
            )
        summary = synthesise_support(
            texts, output=output, encoder=loaded, painter=brush, per_class=per_class, keep=keep, wording=wording,
            seed=seed, batch=batch, paintings=paintings, with_images=with_images, force=force,
            report=console.report,
        )  # fmt: skip
        console.say(
            f"{summary.output}: {summary.images} images of {summary.classes} classes, of {summary.painted} painted"
        )
        if summary.black:
            console.say(f"  withheld by the painter, black: {summary.black}")
        say_agreement(console, summary.agreement)
        say_classes(console, "no image", summary.missing)
        console.say(f"  all images painted are in {summary.paintings}")
        console.stages(summary.seconds)
        return summary

    return run(job, shown)
