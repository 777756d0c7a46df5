"""The verb `rag-clip merge`: merge adapted models into the model that they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.recorded_encoder import RECORDED, Record, RecordedEncoder, find_encoder
from rag_clip.cli.run import SHOWN, Force, ImageColumn, LabelColumn, Shown, Workers, run

if TYPE_CHECKING:
    from rag_clip.pipelines.merge import MergeSummary

ALPHA = Group("Alpha", sort_key=3)


@Parameter(name="*", group=ALPHA)
@dataclass(frozen=True)
class Alpha:
    """How much of the folders: given, or chosen by validation images of both kinds of tasks."""

    alpha: Annotated[
        list[float] | None,
        Parameter(
            negative=(), consume_multiple=True, help="From 0, the model, to 1, the folder; one for all, or one each."
        ),
    ] = None
    patch: Annotated[
        list[tuple[str, Path]] | None,
        Parameter(
            negative=(),
            help="Choose alpha: labelled validation images of a task that was learned, and its prompts; repeatable.",
        ),
    ] = None
    supported: Annotated[
        list[tuple[str, Path]] | None,
        Parameter(negative=(), help="With --patch: images and prompts of a task that must keep working; repeatable."),
    ] = None


NO_ALPHA = Alpha()


def merge(
    folders: Annotated[list[Path], Parameter(negative=(), help="Folders of `adapt`, adapted from the model.")],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The folder of the new model; load it as local-dir:FOLDER.")
    ],
    encoder: RecordedEncoder = RECORDED,
    chosen: Alpha = NO_ALPHA,
    how: Annotated[
        Literal["single", "parallel", "sequential", "whole"] | None,
        Parameter(
            help="The image tower of one folder, the sum of what several changed, each adapted from the merge before "
            "it, or both towers of one folder; by default single or parallel."
        ),
    ] = None,
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    workers: Workers = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Merge adapted models into the model they come from: it learns their tasks and keeps the others (PAINT)."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.merge import AlphaSearch, merge_models
        from rag_clip.pipelines.running import Running

        found = find_encoder(replace(encoder, precision=encoder.precision or "fp32"), _records(folders))
        tasks = [*(chosen.patch or ()), *(chosen.supported or ())]
        check_outputs([(output, "model")], inputs=[folders, found.files, *tasks], force=force)
        patch, supported = (
            [(Images([place], image_column, label_column), prompts) for place, prompts in given or ()]
            for given in (chosen.patch, chosen.supported)
        )
        summary = merge_models(
            folders,
            output=output,
            encoder=found.load(console),
            alpha=chosen.alpha,
            search=AlphaSearch(patch, supported) if tasks else None,
            how=how,
            running=Running(workers, force=force, report=console.report),
        )
        _show(console, summary)
        return summary

    return run(job, shown)


def _records(folders: Sequence[Path]) -> Iterator[Record]:
    from rag_clip.models.folder import read_adapted

    for folder in folders:
        parent = read_adapted(folder).get("parent")
        yield f"the folder {folder}", parent if isinstance(parent, dict) else {}


def _show(console: Console, summary: MergeSummary) -> None:
    console.say(str(summary))
    for each in summary.sweep:
        patch, supported = (", ".join(f"{100 * value:.1f}" for value in part) for part in (each.patch, each.supported))
        mark = "  <- chosen" if each.alpha == summary.alphas[0] else ""
        console.say(
            f"  alpha {each.alpha:.2f}  patch {patch}  supported {supported}  mean {100 * each.score:.1f}{mark}"
        )
    for note in summary.notes:
        console.say(f"  {note}")
    if summary.image_tower_moved:
        console.say("  the image tower moved: build image indexes and support sets again, features are made anew")
    else:
        console.say("  the image tower did not move: stored image vectors, features and support sets stay valid")
    console.stages(summary.seconds)
    console.say(f"next: --model local-dir:{quote(str(summary.output))}, for example in rag-clip enhance")
