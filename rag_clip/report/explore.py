"""All classes of prompts as one page to explore: texts with their shares, and nearest classes; no server, no network.

The page holds its data once, as JSON, and makes what a class holds when it is opened: 1,000 classes open at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from markupsafe import Markup
from torch.nn.functional import normalize

from rag_clip.classifiers.explain import text_shares
from rag_clip.classifiers.zero_shot import compose, encode_texts
from rag_clip.data import Prompts
from rag_clip.display import counted
from rag_clip.progress import Report, silent
from rag_clip.protocols import Encoder
from rag_clip.report.page import render_page

NEAREST = 8
ROWS_AT_ONCE = 1024


def explore_page(
    prompts: Prompts, encoder: Encoder, *, nearest: int = NEAREST, verb: str = "enhance", report: Report = silent
) -> str:
    """Return a page of all classes: texts, largest share first, and the `nearest` classes by cosine.

    `verb` is recorded as what wrote the page. Raises ValueError for prompts of another encoder, and if the texts of a
    class cancel out.
    """
    texts = encode_texts([prompts], encoder, report=report)
    numbers: dict[str, int] = {}
    classes = []
    near = _nearest(normalize(compose(prompts, texts, encoder).weights), nearest, encoder.scale)
    for row, (name, (others, risk)) in enumerate(zip(prompts.labels.names, near, strict=True)):
        shares = text_shares(prompts, row, texts)
        listed = [
            [
                numbers.setdefault(each.prompt.text, len(numbers)),
                round(each.share, 4),
                round(each.prompt.weight, 6),
                each.prompt.role,
                each.prompt.source,
            ]
            for each in shares
        ]
        classes.append({"name": name, "texts": listed, "near": others, "risk": round(risk, 4)})
    count = sum(map(len, prompts.texts))
    made = prompts.recorded.index
    facts = (
        f"{counted(len(classes), 'class')} with {counted(count, 'text')}, made by {prompts.recorded.method}"
        f"{f' from {made}' if made else ''} for {encoder.name}."
    )
    data = {"classes": classes, "texts": list(numbers)}
    return render_page("explore.html", verb, title="Classes and their texts", facts=facts, data=_script(data))


def _nearest(rows: torch.Tensor, count: int, scale: float) -> Iterator[tuple[list[list[Any]], float]]:
    """Yield the nearest other classes of each row of unit weights [c, d], with cosines, and the risk of confusion."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        cosines = rows[start : start + ROWS_AT_ONCE] @ rows.T  # [b, c]
        own = torch.arange(start, start + len(cosines), device=rows.device)[:, None]
        risks = 1 - (scale * cosines).softmax(1).gather(1, own)[:, 0]
        best = cosines.scatter(1, own, -torch.inf).topk(min(count, len(rows) - 1), dim=1)
        for values, others, risk in zip(best.values.tolist(), best.indices.tolist(), risks.tolist(), strict=True):
            yield [[other, round(value, 4)] for other, value in zip(others, values, strict=True)], max(0.0, risk)


def _script(value: object) -> Markup:
    """Return JSON that a script element may hold: no text in it can end the element, or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
