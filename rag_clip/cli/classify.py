"""The verbs `rag-clip classify`, `learn` (CoOp, DPT) and `heads` (the list of few-shot heads)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.recorded_encoder import RECORDED, RecordedEncoder, find_encoder, records_of
from rag_clip.cli.run import (
    ENCODER,
    HEAD,
    IMAGES,
    SHOWN,
    Force,
    ImageColumn,
    Ray,
    Shown,
    Workers,
    model_files,
    run,
    spread,
)
from rag_clip.display import counted

if TYPE_CHECKING:
    from rag_clip.classifiers.novelty import OpenWorld
    from rag_clip.pipelines.classify import ClassifySummary
    from rag_clip.report.tally import Predicted

CLASSES_SHOWN = 10
WRITE_SECONDS = 1e-4  # per row, including matching: 0.3 s for 3,240 rows, on two cores


def classify(
    images: Annotated[list[str], Parameter(negative=(), help=IMAGES)],
    /,
    *,
    prompts: Annotated[
        list[Path],
        Parameter(
            negative=(),
            consume_multiple=True,
            help="Prompts of `enhance`, or learned ones of `learn`. Of several of the same classes, the images choose.",
        ),
    ],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="predictions.parquet")],
    encoder: RecordedEncoder = RECORDED,
    index: Annotated[
        str | None, Parameter(help="The index of the prompts; its vectors spare encoding their captions again.")
    ] = None,
    support: Annotated[
        Path | None, Parameter(group=HEAD, help="A support file, or a file of evidence, for the head.")
    ] = None,
    head: Annotated[
        str | None,
        Parameter(
            group=HEAD,
            help="The head that uses the support file; default ridge (evidence for such a file), see `rag-clip heads`.",
        ),
    ] = None,
    head_options: Annotated[Path | None, Parameter(group=HEAD, help="A TOML file with settings of the head.")] = None,
    validation: Annotated[
        Path | None,
        Parameter(
            group=HEAD,
            help="A support file to choose the head's settings on, such as `support shots --validation` writes.",
        ),
    ] = None,
    second: Annotated[
        list[str] | None,
        Parameter(
            group=HEAD,
            negative=(),
            help="Further encoders of images (timm:NAME), that the head needs, or evidence for --refine.",
        ),
    ] = None,
    floor: Annotated[
        bool,
        Parameter(
            group=HEAD, help="Limit the weight of the head, down to none, to what held-out support images justify."
        ),
    ] = True,
    image_column: ImageColumn = "image",
    limit: Annotated[int | None, Parameter(help="Classify and write only the first rows, to try a command.")] = None,
    top_k: Annotated[int, Parameter(help="Number of classes listed per image.")] = 5,
    scores: Annotated[
        Literal["softmax", "sigmoid"],
        Parameter(help="Probabilities that sum to one, or (for encoders like SigLIP) independent for each class."),
    ] = "softmax",
    refine: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            consume_multiple=(0, 1),
            help="Use all images of the file as evidence for each, or with chunk=N those of N rows at a time; keeps "
            "label_alone beside label.",
        ),
    ] = None,
    open_world: Annotated[
        bool,
        Parameter(
            name="--open",
            negative=(),
            help="Also write the novelty of each image: how likely it shows something that no class names.",
        ),
    ] = False,
    negatives: Annotated[
        str | None,
        Parameter(
            help="Names of other things, for --open: a word list, a label file, captions, or a caption index; "
            "default: --index."
        ),
    ] = None,
    reject: Annotated[
        bool, Parameter(negative=(), help="With --open, images of too much novelty get no label.")
    ] = False,
    most_novelty: Annotated[
        float | None,
        Parameter(
            help="The novelty above which an image is none of the classes; default: chosen by --support, or 0.5."
        ),
    ] = None,
    hub_bank: Annotated[
        str | None,
        Parameter(
            help="A support file or an index of images of all classes: texts that lie near most of them count for less."
        ),
    ] = None,
    match: Annotated[
        Literal["pooled", "patches", "late"],
        Parameter(
            group=ENCODER,
            help="What texts are compared with: the feature of an image, or its patches, by a model that learned to "
            "match them (`adapt --objective pacl`, or for late `filip`).",
        ),
    ] = "pooled",
    features: Annotated[
        Path | None, Parameter(help="Folder that keeps image features, for use with other prompts.")
    ] = (None),
    workers: Workers = None,
    ray: Ray = None,
    batch_size: Annotated[int, Parameter(help="Number of images encoded at once.")] = 256,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Classify images; the output has every input column, and the label, score, top-k and error of each image."""

    def job(console: Console) -> object:
        from rag_clip.classifiers.heads import read_options
        from rag_clip.classifiers.hubs import HubBank
        from rag_clip.classifiers.match import Scoring
        from rag_clip.classifiers.prepared import default_head, prepare_head
        from rag_clip.classifiers.reuse import Reuse
        from rag_clip.files.outputs import Inputs, check_outputs
        from rag_clip.given import to_candidates
        from rag_clip.images.opening import Images
        from rag_clip.pipelines.classify import classify as classify_images
        from rag_clip.pipelines.classify import classify_outputs
        from rag_clip.pipelines.running import Running

        one, elsewhere = spread(encoder, ray)
        found = find_encoder(one, records_of(prompts=prompts, supports=[support, validation], index=index))
        read: Inputs = [images, *prompts, index, negatives, hub_bank, support, head_options, validation, found.files]
        written = classify_outputs(output, features)
        check_outputs(written, inputs=[*read, model_files(*second or ())], force=force)
        refined, chunk = refine is not None, _chunk(refine or [])
        world = _open_world(open_world, negatives or index, support, most_novelty, reject)
        if second and support is None and not refined:
            raise ValueError("--second is for a head or for --refine; add one, or leave it out")
        if head and support is None:
            raise ValueError(f"the head {head!r} needs a support file; give --support")
        name = (head or default_head(support)) if support else None
        texts, loaded = to_candidates(prompts if len(prompts) > 1 else prompts[0]), found.load(console)
        first, *rest = texts.values()
        labels = first.labels
        others = {name: one.load(console, name) for name in second or ()}
        options = read_options(head_options) if head_options else None
        if name and not head:
            console.say(f"head: {name}, the default with a support file (`rag-clip heads` lists others)")
        chosen = None
        if name and support:
            chosen = prepare_head(
                name,
                support,
                labels=labels,
                encoder=loaded,
                others=others,
                validation=validation,
                options=options,
                report=console.report,
            )
            chosen = chosen if floor else chosen.without_floor()
        console.plan(*[("encode", 0.0)] * (1 + len(others)), ("write", WRITE_SECONDS))
        summary = classify_images(
            Images(images, image_column, limit=limit),
            prompts=texts if rest else first,
            output=output,
            encoder=loaded,
            head=chosen,
            scoring=Scoring(
                top_k,
                scores,
                refined,
                world,
                HubBank(hub_bank) if hub_bank else None,
                others if refined else {},
                chunk,
                match,
            ),
            reuse=Reuse(index, features),
            running=Running(workers, batch_size, force, console.report, elsewhere=elsewhere),
        )
        console.say(str(summary))
        _show_evidence(console, summary, len(labels))
        _show_predicted(console, summary.predicted, len(labels))
        console.stages(summary.seconds)
        return summary

    return run(job, shown)


def _chunk(refine: list[str]) -> int | None:
    """Return N of `--refine chunk=N`, None for `--refine`; raises ValueError for anything else."""
    if not refine:
        return None
    name, _, number = refine[0].partition("=")
    if name != "chunk" or not number.isdecimal():
        raise ValueError(f"--refine takes nothing or chunk=N, such as chunk=256, not {refine[0]!r}")
    return int(number)


def _open_world(
    wanted: bool, negatives: str | None, support: Path | None, threshold: float | None, reject: bool
) -> OpenWorld | None:
    from rag_clip.classifiers.novelty import OpenWorld
    from rag_clip.files.evidence import is_evidence

    if not wanted:
        if reject or threshold is not None:
            raise ValueError("--reject and --most-novelty decide with --open; add it")
        return None
    if negatives is None:
        raise ValueError("--open compares images with names of other things; give --negatives FILE, or --index INDEX")
    shots = None if support is None or is_evidence(support) else support
    return OpenWorld(negatives, shots, threshold, reject)


def _show_evidence(console: Console, summary: ClassifySummary, count: int) -> None:
    if summary.chosen:
        from rag_clip.refinement.choose_prompts import describe_choice

        console.say(describe_choice(summary.chosen, count))
    if refined := summary.refined:
        chunks = f", {counted(refined.chunk, 'row')} at a time" if refined.chunk else ""
        console.say(
            f"refined by {counted(refined.images, 'image')}{chunks}: {refined.changed:.1%} of their labels changed, "
            f"{refined.predicted} of {counted(count, 'class')} predicted"
        )
        if warning := refined.warning(count):
            console.say(warning)
    if novelty := summary.novelty:
        how = {"given": "", "support": ", of which 95 % of the support images stay below", "usual": " (usual)"}
        what = "which got no label" if novelty.rejected else "whose labels were kept"
        console.say(
            f"{counted(novelty.novel, 'image')} of more novelty than {novelty.threshold:.3f}{how[novelty.by]}, {what}; "
            f"compared with {counted(novelty.negatives, 'name')} from {novelty.place}"
        )
        if novelty.by == "usual" and novelty.novel > (summary.rows - summary.failed) / 2:
            console.say("most images are above the usual threshold, so it may not suit them; give labelled --support")


def _show_predicted(console: Console, predicted: Predicted, count: int) -> None:
    images = sum(predicted.classes.values())
    if predicted.mean_score is None:
        return
    shown = dict(list(predicted.classes.items())[:CLASSES_SHOWN])
    console.table("predicted", {name: {"images": str(n), "share": f"{n / images:.1%}"} for name, n in shown.items()})
    if others := len(predicted.classes) - len(shown):
        rest = counted(images - sum(shown.values()), "image")
        console.say(f"  and {counted(others, 'other class')}: {rest}")
    if unused := count - len(predicted.classes):
        console.say(f"  {unused} of {counted(count, 'class')} got no image")
    lowest = ", ".join(f"row {each.row} ({each.label} {each.score:.3f})" for each in predicted.lowest)
    console.say(f"mean score {predicted.mean_score:.3f}; lowest: {lowest}")


def learn(
    support: Annotated[Path, Parameter(help="The support file to learn from, made by any `support` verb.")],
    /,
    *,
    prompts: Annotated[Path, Parameter(help="A prompts file with the classes, and texts for those without an image.")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="learned.safetensors, for `classify --prompts`.")],
    encoder: RecordedEncoder = RECORDED,
    validation: Annotated[
        Path | None,
        Parameter(help="A support file to choose the epoch on, such as `support shots --validation` writes."),
    ] = None,
    method: Annotated[
        Literal["coop", "dpt"],
        Parameter(
            help="What is learned: words around the names (coop), or also tokens beside those of an image (dpt), from "
            "a support file made --with-images."
        ),
    ] = "coop",
    options: Annotated[
        Path | None, Parameter(help="A TOML file with settings of the method, such as [context] and [schedule].")
    ] = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Learn the context around the class names from a support file (CoOp or DPT), and write it as learned prompts."""

    def job(console: Console) -> object:
        from rag_clip.classifiers.heads import read_options
        from rag_clip.files.learned_prompts import check_learned_path
        from rag_clip.files.outputs import check_outputs
        from rag_clip.files.prompts import read_prompts
        from rag_clip.pipelines.heads import learn_prompts
        from rag_clip.pipelines.running import Running

        check_learned_path(output)
        found = find_encoder(encoder, records_of(prompts=[prompts], supports=[support, validation]))
        read = [support, prompts, validation, options, found.files]
        check_outputs([(output, "learn")], inputs=read, force=force)
        made = learn_prompts(
            read_prompts(prompts),
            support,
            output=output,
            encoder=found.load(console),
            validation=validation,
            method=method,
            options=read_options(options) if options else None,
            running=Running(force=force, report=console.report),
        )
        kind = "one context for all classes" if made.shared else "a context for each class"
        vectors = counted(made.context.shape[-2], "vector")
        visual = ", and visual prompts" if made.visual else ""
        console.say(f"{output}: {counted(len(made.labels), 'class')}, {kind} of {vectors}{visual}")
        return {"output": output, "classes": len(made.labels), "context": list(made.context.shape)}

    return run(job, shown)


def heads(*, shown: Shown = SHOWN) -> int:
    """List the heads that use a support set, with their papers, requirements, settings and defaults."""

    def job(console: Console) -> object:
        from rag_clip.classifiers.head_list import listed_heads

        listed = listed_heads()
        for name, head in listed.items():
            console.say(f"{name}: {head['good_for']}\n  {head['paper']}; needs {head['needs']}")
            settings = ", ".join(f"{key} = {value}" for key, value in head["settings"].items())
            console.say(f"  settings: {settings}")
        return listed

    return run(job, shown)
