"""The verb `rag-clip adapt`: train a copy of an encoder on pairs or labelled images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.run import (
    COLUMNS,
    IMAGES,
    RUNNING,
    SHOWN,
    EncoderOptions,
    Force,
    ImageColumn,
    LabelColumn,
    Shown,
    Workers,
    run,
)
from rag_clip.display import counted

if TYPE_CHECKING:
    from rag_clip.pipelines.adapt import AdaptSummary

START, SCHEDULE = Group("Start and lock", sort_key=3), Group("Schedule", sort_key=4)


@Parameter(name="*", group=START)
@dataclass(frozen=True)
class Start:
    """What moves, and from where."""

    lock: Annotated[
        str, Parameter(help="What may not move: none, image, text, both, or image:G (all but the top G groups).")
    ] = "none"
    fresh: Annotated[
        Literal["none", "text", "both"], Parameter(help="Towers that start from new weights; `text` with --lock image.")
    ] = "none"
    vocabulary: Annotated[
        int | None,
        Parameter(help="Learn a tokenizer of so many merges from the captions, for another language; needs --fresh."),
    ] = None
    like: Annotated[
        str, Parameter(help="For --model timm:NAME with --fresh text: the open_clip model whose text tower to build.")
    ] = ""


@Parameter(name="*", group=SCHEDULE)
@dataclass(frozen=True)
class Length:
    """How long, in which batches, and how fast."""

    steps: Annotated[int, Parameter(help="Number of steps.")] = 300
    batch_size: Annotated[int, Parameter(help="Images per step.")] = 256
    rate: Annotated[float | None, Parameter(help="Highest learning rate; by default 1e-5, or 1e-3 with --fresh.")] = (
        None
    )
    warm_up: Annotated[int | None, Parameter(help="Steps of warm-up; by default 5 % of all, at least 20.")] = None
    least_area: Annotated[float, Parameter(help="Least share of an image's area in a training crop.")] = 0.9
    chunk: Annotated[
        int | None, Parameter(help="Images or texts encoded at once, so that a large batch fits in memory.")
    ] = None
    train_precision: Annotated[
        Literal["fp32", "bf16"], Parameter(help="bf16 computes in bfloat16; weights stay float32.")
    ] = "fp32"
    seed: Annotated[int, Parameter(help="Seed of fresh weights, of the order and of crops.")] = 0


NO_START, NO_LENGTH = Start(), Length()


def adapt(
    images: Annotated[list[str], Parameter(negative=(), help=f"Pairs or labelled images: {IMAGES}")],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The folder of the new model; load it as local-dir:FOLDER.")
    ],
    encoder: EncoderOptions,
    objective: Annotated[
        str, Parameter(help="clip, align, siglip, slip, proto, filip, nlip, idea, pacl, labels or carft.")
    ] = "clip",
    prompts: Annotated[Path | None, Parameter(help="The classes of labelled images, for `labels` and `carft`.")] = None,
    settings: Annotated[Path | None, Parameter(help="TOML with settings of the objective.")] = None,
    start: Start = NO_START,
    length: Length = NO_LENGTH,
    pixels: Annotated[
        Path | None, Parameter(group=RUNNING, help="Folder that keeps decoded pixels for other runs.")
    ] = None,
    every: Annotated[int, Parameter(group=RUNNING, help="Steps between checkpoints.")] = 50,
    image_column: ImageColumn = "image",
    caption_column: Annotated[str, Parameter(group=COLUMNS, help="The column of the captions.")] = "caption",
    label_column: LabelColumn = "label",
    workers: Workers = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Train a copy of a model on IMAGES with captions or labels, and write it as a folder that every verb loads."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.adapt import Training, adapt_encoder
        from rag_clip.pipelines.running import Running
        from rag_clip.training.objective_list import load_objective

        chosen = load_objective(objective, settings)
        training = Training(
            **asdict(start),
            steps=length.steps,
            batch_size=length.batch_size,
            rate=length.rate,
            warm_up=length.warm_up,
            least_area=length.least_area,
            chunk=length.chunk,
            precision=length.train_precision,
            seed=length.seed,
            every=every,
        )
        outputs = [(output, "model"), (pixels, "pixels")]
        check_outputs(outputs, inputs=[images, prompts, settings, encoder.files], force=force)
        summary = adapt_encoder(
            Images(images, image_column, label_column, caption_column),
            output=output,
            encoder=encoder.load(console),
            objective=chosen,
            prompts=prompts,
            training=training,
            pixels=pixels,
            running=Running(workers, force=force, report=console.report),
        )
        _show(console, summary)
        return summary

    return run(job, shown)


def _show(console: Console, summary: AdaptSummary) -> None:
    console.say(str(summary))
    if summary.resumed:
        console.say(f"  went on from step {summary.resumed} of an interrupted run")
    for row, reason in list(summary.reasons.items())[:3]:
        console.say(f"  row {row} was left out: {reason}")
    if summary.masked:
        console.say(f"  {100 * summary.masked:.2g} % of the negatives had an equal caption or image and were left out")
    if summary.cut:
        console.say(f"  {counted(summary.cut, 'caption')} longer than the context; the rest was not read")
    for name, value in summary.facts.items():
        console.say(f"  {name}: {value:.4g}")
    if summary.image_tower_moved:
        console.say("  the image tower moved: build image indexes and support sets again, features are made anew")
    else:
        console.say("  the image tower did not move: stored image vectors, features and support sets stay valid")
    console.stages(summary.seconds)
    console.say(
        f"next: --model local-dir:{quote(str(summary.output))}, for example in rag-clip enhance; "
        f"{quote(str(summary.output / 'loss.png'))} shows the losses"
    )
