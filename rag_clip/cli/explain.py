"""The verb `rag-clip explain`: the texts of a class, and the texts that decided the prediction for an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.recorded_encoder import RECORDED, RecordedEncoder, find_encoder, records_of
from rag_clip.cli.run import IMAGES, SHOWN, Force, ImageColumn, Shown, run
from rag_clip.display import counted
from rag_clip.files.locations import without_secrets

if TYPE_CHECKING:
    from rag_clip.classifiers.explain import ClassEffect, ImageExplanation, LabelExplanation


def explain(
    label: Annotated[str | None, Parameter(help="A class of the prompts.")] = None,
    /,
    *,
    prompts: Annotated[Path, Parameter(help="A file that `rag-clip enhance` wrote.")],
    encoder: RecordedEncoder = RECORDED,
    image: Annotated[str | None, Parameter(help="An image file, or its URL.")] = None,
    images: Annotated[str | None, Parameter(help=f"{IMAGES[:-1]}; with --row.")] = None,
    row: Annotated[
        int | None, Parameter(help="The row of --images, from 0, as classify counts; not needed for one.")
    ] = None,
    image_column: ImageColumn = "image",
    before: Annotated[
        Path | None, Parameter(help="Prompts to compare the nearest classes with; default: the templates alone.")
    ] = None,
    support: Annotated[
        Path | None, Parameter(help="A support file or a file of evidence that decides too, as `--head evidence` does.")
    ] = None,
    refine: Annotated[
        bool, Parameter(negative=(), help="All of --images decide too, as with `classify --refine`.")
    ] = False,
    floor: Annotated[bool, Parameter(help="Limit the weight of the support as `classify` does.")] = True,
    features: Annotated[Path | None, Parameter(help="Folder that keeps image features, for --refine.")] = None,
    count: Annotated[int, Parameter(help="Number of texts and classes to show.")] = 10,
    html: Annotated[Path | None, Parameter(help="Also write an HTML page with the picture and bars.")] = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Show the texts of LABEL and its nearest classes; for an image, the texts that decided between two classes.

    The two classes are the predicted one and the second best, or LABEL if it is given.
    """

    def job(console: Console) -> object:
        from dataclasses import asdict

        if label is None and image is None and images is None:
            raise ValueError("there is nothing to explain; give a class name, --image FILE, or --images FILE --row N")
        if count < 1:
            raise ValueError(f"--count is {count}; give at least 1")

        if refine and images is None:
            raise ValueError("--refine explains an image among all of a file; give --images FILE and --row N")
        if features and not refine:
            raise ValueError("--features keeps the features that --refine reads; add it, or leave the folder out")
        if support and image is None and images is None:
            raise ValueError("--support explains an image; give --image FILE, or --images FILE --row N")
        if not floor and support is None:
            raise ValueError("--no-floor is about --support; give it, or leave the option out")

        from rag_clip.files.outputs import check_outputs

        records = records_of(prompts=[prompts, *([] if before is None else [before])], supports=[support])
        found = find_encoder(encoder, records)
        written = [(html, "explain"), (features, "features")]
        check_outputs(written, inputs=[prompts, image, images, before, support, found.files], force=force)
        picture = _picture(image, images, row, image_column)

        from rag_clip.images.opening import Images
        from rag_clip.pipelines.explain import Beside
        from rag_clip.pipelines.explain import explain as explain_prompts
        from rag_clip.pipelines.unlabelled import Unlabelled

        together = Unlabelled(Images(images, image_column), features) if refine and images else None
        made = explain_prompts(
            prompts,
            label,
            image=picture,
            encoder=found.load(console),
            before=before,
            beside=Beside(support, together, floor) if support or together else None,
            count=count,
            report=console.report,
        )
        if made.image is not None:
            _show_image(console, made.image, count)
        if made.label is not None:
            _show_label(console, made.label, count)
        if html is not None:
            made.write_page(html, force=force)
            console.say(f"page: {html}")
        return {
            "label": None if made.label is None else asdict(made.label),
            "image": None if made.image is None else asdict(made.image),
            "html": html,
        }

    return run(job, shown)


def _picture(image: str | None, images: str | None, row: int | None, column: str) -> bytes | None:
    if image is not None and images is not None:
        raise ValueError("--image and --images were both given; explain one image")
    if row is not None and images is None:
        raise ValueError("--row is of --images; give both")

    from rag_clip.images.items import read_image
    from rag_clip.images.opening import open_image_files
    from rag_clip.images.rows import read_items

    if image is not None:
        return read_image(image)
    if images is None:
        return None
    files = open_image_files(images, image_column=column)
    rows = sum(file.rows for file in files)
    if row is None and rows > 1:
        raise ValueError(f"{without_secrets(images)} holds {counted(rows, 'image')}; choose one with --row N, from 0")
    wanted = row or 0
    if not 0 <= wanted < rows:
        raise ValueError(
            f"{without_secrets(images)} has no row {wanted}; it holds {counted(rows, 'row')}, counted from 0"
        )
    for file in files:
        if wanted < file.rows:
            break
        wanted -= file.rows
    item = next(read_items(file, [1], start=wanted))[0]
    if item is None:
        raise ValueError(f"row {wanted} of {file.path} has no image; choose another")
    return read_image(item)


def _show_image(console: Console, found: ImageExplanation, count: int) -> None:
    for effect in (found.winner, found.rival):
        console.table(f"{_shortened(effect.label)} ({effect.probability:.1%})", _effects(effect, found.bias, count))
        if effect.chosen:
            console.say(f"{effect.label}: {effect.chosen}")
    if found.sources:
        console.table(f"what {found.winner.label} has over {found.rival.label}", _sources(found))
    what = "the sum of these parts" if found.sources else f"the sum of its lifts minus those of {found.rival.label}"
    console.say(
        f"{found.winner.label} {found.winner.logit:.4f} - {found.rival.label} {found.rival.logit:.4f} "
        f"= gap {found.gap:.4f}, {what}"
    )


def _sources(found: ImageExplanation) -> dict[str, dict[str, str]]:
    winner, rival = found.winner.label, found.rival.label
    rows = {
        part.source: {
            "gap": f"{part.gap:+.4f}",
            winner: f"{part.winner:+.4f}",
            rival: f"{part.rival:+.4f}",
            "shares": "{:.0%} / {:.0%}".format(*part.shares) if part.shares else "",
        }
        for part in found.sources
    }
    return {**rows, "sum": {"gap": f"{found.gap:+.4f}", winner: "", rival: "", "shares": ""}}


def _effects(effect: ClassEffect, bias: float, count: int) -> dict[str, dict[str, str]]:
    rows = {
        f"{number}. {_shortened(text.prompt.text)}": _effect(text.lift, text.contribution, f"{text.cosine:.3f}")
        for number, text in enumerate(effect.texts[:count], start=1)
    }
    if rest := effect.texts[count:]:
        lift, contribution = sum(text.lift for text in rest), sum(text.contribution for text in rest)
        rows[counted(len(rest), "other text")] = _effect(lift, contribution)
    if bias:
        rows["bias of the model"] = {"lift": "", "contributes": f"{bias:.4f}", "cosine": ""}
    return {**rows, "sum": _effect(sum(text.lift for text in effect.texts), effect.alone)}


def _effect(lift: float, contribution: float, cosine: str = "") -> dict[str, str]:
    return {"lift": f"{lift:+.4f}", "contributes": f"{contribution:.4f}", "cosine": cosine}


def _show_label(console: Console, found: LabelExplanation, count: int) -> None:
    texts = {
        f"{number}. {_shortened(text.prompt.text)}": {
            "share": f"{text.share:.1%}",
            "weight": f"{text.prompt.weight:.4f}",
            "score": "" if text.prompt.score is None else f"{text.prompt.score:.3f}",
            "rank": "" if text.prompt.rank is None else str(text.prompt.rank),
            "source": text.prompt.source,
            "id": text.prompt.evidence,
        }
        for number, text in enumerate(found.texts[:count], start=1)
    }
    console.table(f"{_shortened(found.label)}: {len(texts)} of {len(found.texts)} texts", texts)
    rivals = {
        rival.label: {
            "before": f"{rival.before:.4f}",
            "after": f"{rival.after:.4f}",
            "change": f"{rival.after - rival.before:+.4f}",
        }
        for rival in found.competitors
    }
    if rivals:
        console.table("nearest classes, cosine", rivals)
    if found.chosen:
        console.say(found.chosen)
    console.say(f"expected confusion: before {found.confusion_before:.3g}, after {found.confusion_after:.3g}")


def _shortened(text: str, limit: int = 72) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
