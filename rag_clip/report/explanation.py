"""An explanation as one HTML file that needs nothing else: the picture, bars for every text, and sums that add up."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from rag_clip.classifiers.explain import ClassEffect, ImageExplanation, LabelExplanation, TextEffect
from rag_clip.data import PromptText
from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import GENERATOR, check_outputs, holding
from rag_clip.models.decode import decode_image

PICTURE_SIDE = 384
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem;color:#1d2733}
table{border-collapse:collapse;width:100%;margin:.5rem 0 2rem}
td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e3e8ed;vertical-align:top;white-space:nowrap}
td.text,th.text{text-align:start;white-space:normal;overflow-wrap:anywhere;width:100%;padding-left:1.5rem}
th{color:#5a6b7b;font-weight:500}tr.sum td{font-weight:600;border-top:2px solid #aab6c2}
small{color:#5a6b7b;display:block}.bar{width:150px;min-width:150px;padding:.35rem 0}
.bar i{display:block;height:.9rem;border-radius:2px}.up{background:#1b7f3b}.down{background:#b3261e}
.share{background:#3b6ea5}.picture{float:right;margin:0 0 1rem 1.5rem;min-width:160px;max-width:40%;border-radius:4px}
h2{clear:both}.gap{font-size:1.15rem}"""


def write_page(
    path: str | Path,
    *,
    label: LabelExplanation | None = None,
    image: ImageExplanation | None = None,
    picture: Image.Image | bytes | None = None,
    count: int = 25,
    force: bool = False,
) -> None:
    """Write what was explained to `path`, the picture inside it; `count` texts of a class have a row of their own.

    The file appears whole or not at all. Raises ValueError, but with `force`, for a file that is no such page, OSError
    where it cannot be written, BusyError where another process does, and ImageError for a broken picture.
    """
    path = Path(path)
    written = [(path, "explain")]
    check_outputs(written, force=force)
    title = f"Why this is {image.winner.label}" if image else f"What {label.label} is made of" if label else "Nothing"
    body = (_image(image, picture, count) if image else "") + (_label(label, count) if label else "")
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8">{GENERATOR.format("explain")}'
        f"<title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style>{body}</html>\n"
    )
    with holding(written, force=force), disk_errors(path), replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _image(image: ImageExplanation, picture: Image.Image | bytes | None, count: int) -> str:
    winner, rival = image.winner, image.rival
    widest = max(abs(text.lift) for effect in (winner, rival) for text in effect.texts[:count])
    sums = [sum(text.lift for text in effect.texts) for effect in (winner, rival)]
    return (
        f"{_picture(picture)}<h1>Why this is {_name(winner.label)}, and not {_name(rival.label)}</h1>"
        f"<p>{_name(winner.label)}: logit {winner.logit:.3f}, probability {winner.probability:.1%}<br>"
        f"{_name(rival.label)}: logit {rival.logit:.3f}, probability {rival.probability:.1%}</p>"
        f'<p class="gap">{winner.logit:.3f} − {rival.logit:.3f} = gap <b>{image.gap:.3f}</b> = '
        f"{sums[0]:.3f} − ({sums[1]:.3f}), the lifts of both</p>"
        "<p>A text <b>contributes</b> scale × coefficient × cosine: the contributions of a class"
        f"{' and the bias' if image.bias else ''} sum to its logit. Its <b>lift</b> is its contribution over its part "
        "of the mean of both classes: a positive lift is a text that is nearer to the image than a tie would need.</p>"
        f"{_effects(winner, image.bias, widest, count)}{_effects(rival, image.bias, widest, count)}"
    )


def _effects(effect: ClassEffect, bias: float, widest: float, count: int) -> str:
    rows = [_effect(text, widest) for text in effect.texts[:count]]
    rest = effect.texts[count:]
    if rest:
        lift, contribution = sum(text.lift for text in rest), sum(text.contribution for text in rest)
        rows.append(_row(_bar(lift, widest), f"{lift:+.4f}", f"{contribution:.4f}", "", _others(len(rest))))
    if bias:
        rows.append(_row("", "", f"{bias:.4f}", "", "bias of the model"))
    total = sum(text.lift for text in effect.texts)
    rows.append(_row("", f"{total:+.4f}", f"{effect.logit:.4f}", "", "sum", kind="sum"))
    head = _head("", "lift", "contributes", "cosine", "text")
    return f"<h2>{_name(effect.label)}</h2><table>{head}{''.join(rows)}</table>"


def _effect(text: TextEffect, widest: float) -> str:
    return _row(
        _bar(text.lift, widest),
        f"{text.lift:+.4f}",
        f"{text.contribution:.4f}",
        f"{text.cosine:.3f}",
        _text(text.prompt),
    )


def _label(label: LabelExplanation, count: int) -> str:
    widest = max(abs(text.share) for text in label.texts)
    shown, rest = label.texts[:count], label.texts[count:]
    rows = [
        _row(
            _bar(text.share, widest, "share" if text.share >= 0 else "down"),
            f"{text.share:.1%}",
            f"{text.prompt.weight:.4f}",
            "",
            _text(text.prompt),
        )
        for text in shown
    ]
    if rest:
        share, weight = sum(text.share for text in rest), sum(text.prompt.weight for text in rest)
        rows.append(_row("", f"{share:.1%}", f"{weight:.4f}", "", _others(len(rest))))
    rivals = [
        _row("", f"{rival.before:.4f}", f"{rival.after:.4f}", f"{rival.after - rival.before:+.4f}", _name(rival.label))
        for rival in label.competitors
    ]
    return (
        f"<h1>What {_name(label.label)} is made of</h1>"
        f"<table>{_head('', 'share', 'weight', '', 'text')}{''.join(rows)}</table>"
        f"<h2>Nearest classes</h2><p>An image exactly on this class weight would be taken for another class with "
        f"probability {label.confusion_after:.3g}; before, {label.confusion_before:.3g}.</p>"
        f"<table>{_head('', 'cosine before', 'after', 'change', 'class')}{''.join(rivals)}</table>"
    )


def _picture(picture: Image.Image | bytes | None) -> str:
    if picture is None:
        return ""
    shown = (decode_image(picture) if isinstance(picture, bytes) else picture).convert("RGB")
    shown.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    shown.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="picture" alt="the image explained" src="data:image/png;base64,{data}">'


def _bar(value: float, widest: float, kind: str = "") -> str:
    """Draw a share from the left; a lift from the middle, to the right where it is positive."""
    width = 100 * min(1.0, abs(value) / widest) if widest else 0.0
    if kind:
        return f'<i class="{kind}" style="width:{width:.1f}%"></i>'
    left = 50.0 if value >= 0 else 50 - width / 2
    return f'<i class="{"up" if value >= 0 else "down"}" style="width:{width / 2:.1f}%;margin-left:{left:.1f}%"></i>'


def _text(prompt: PromptText) -> str:
    facts = [prompt.source]
    if prompt.rank is not None:
        facts.append(f"rank {prompt.rank}")
    if prompt.score is not None:
        facts.append(f"score {prompt.score:.3f}")
    if prompt.evidence:
        facts.append(f"id {prompt.evidence}")
    described = ", ".join(html.escape(fact) for fact in [*facts, f"weight {prompt.weight:.4g}"] if fact)
    return f'<span dir="auto">{html.escape(prompt.text)}</span><small>{described}</small>'


def _name(name: str) -> str:
    return f"<bdi>{html.escape(name)}</bdi>"


def _others(count: int) -> str:
    return f"{count} other text{'s' * (count > 1)} together"


def _head(*names: str) -> str:
    return _cells("th", names, "")


def _row(*cells: str, kind: str = "") -> str:
    return _cells("td", cells, f' class="{kind}"' if kind else "")


def _cells(tag: str, cells: Sequence[str], kind: str) -> str:
    first, *middle, last = cells
    between = "".join(f"<{tag}>{cell}</{tag}>" for cell in middle)
    return f'<tr{kind}><{tag} class="bar">{first}</{tag}>{between}<{tag} class="text">{last}</{tag}></tr>'
