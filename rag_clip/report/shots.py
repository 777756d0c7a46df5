"""The report's section on few shots: the accuracy of each head against the number of labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from rag_clip.display import counted
from rag_clip.evaluation.results import Result
from rag_clip.evaluation.tiers import short_tier
from rag_clip.report.curve_charts import ShotLine, ShotPanel, draw_shots
from rag_clip.report.page import figure, section
from rag_clip.report.shown import COLOURS, shorten

MOST_TEXTS = 3
MOST_HEADS = len(COLOURS) - 1


class Legend(NamedTuple):
    """The name of a head with its tiers, and the colour of its lines."""

    name: str
    colour: str


def few_shots(results: Sequence[Result], *, title: str) -> Markup:
    """Return the main number, `title`, against shots for heads beside each text; nothing without few-shot runs.

    Renamed runs, such as those of a comparison, are left out. Of many texts the first and the best are shown, of many
    heads those with the best last value.
    """
    texts: dict[str, dict[str, dict[int | None, Result]]] = {}
    for result in results:
        head = result.settings.head
        if head and head.shots is not None and result.run.endswith(" shots"):
            text = result.run.rpartition(", ")[0].removesuffix(f" + {head.name}")
            texts.setdefault(text, {}).setdefault(head.name, {})[_count(head.shots)] = result
    if not texts:
        return Markup()
    alone = {result.run: result for result in results}
    chosen = _texts(list(texts), alone)
    heads = _heads([texts[text] for text in chosen])
    panels = [_panel(text, alone.get(text), texts[text], heads) for text in chosen]
    left = len(texts) - len(chosen), len({head for each in texts.values() for head in each}) - len(heads)
    whole = ' "all" is a single run, with its 95 % interval.' if _drew_all(texts) else ""
    more = f"{counted(left[0], 'more text')} and {counted(left[1], 'more head')}"
    some = f" Only in the table: {more}." if any(left) else ""
    return section(
        "How much labelled images help",
        "Heads built on images drawn from each class, beside the text alone (dashed, without images). Lines are the "
        f"mean over the draws, bands plus and minus one standard deviation.{whole}{some}",
        figure(draw_shots(panels, title=title), "Shots."),
    )


def _drew_all(texts: Mapping[str, Mapping[str, Mapping[int | None, Result]]]) -> bool:
    return any(None in points for heads in texts.values() for points in heads.values())


def _count(shots: object) -> int | None:
    return shots if isinstance(shots, int) else None


def _texts(names: Sequence[str], alone: dict[str, Result]) -> list[str]:
    ranked = sorted(names[1:], key=lambda name: -alone[name].main.value if name in alone else 0.0)
    return [names[0], *ranked[: MOST_TEXTS - 1]]


def _heads(panels: Sequence[dict[str, dict[int | None, Result]]]) -> dict[str, Legend]:
    """Return the heads to draw, with all tiers of their runs, and their colours."""
    last: dict[str, float] = {}
    tiers: dict[str, dict[str, None]] = {}
    for head, points in (item for panel in panels for item in panel.items()):
        last[head] = max(last.get(head, 0.0), _in_order(points)[-1][1].main.value)
        tiers.setdefault(head, {}).update(dict.fromkeys(one.tier for one in points.values()))
    best = sorted(last, key=lambda head: -last[head])[:MOST_HEADS]
    chosen = [head for head in last if head in best]
    return {
        head: Legend(f"{head} [{'; '.join(map(short_tier, tiers[head]))}]", colour)
        for head, colour in zip(chosen, COLOURS[1:], strict=False)
    }


def _panel(
    text: str, alone: Result | None, by_head: dict[str, dict[int | None, Result]], heads: dict[str, Legend]
) -> ShotPanel:
    lines = tuple(
        ShotLine(head.name, head.colour, {count: result.main for count, result in _in_order(by_head[key])})
        for key, head in heads.items()
        if key in by_head
    )
    name = shorten(text, 20) + (f" [{short_tier(alone.tier)}]" if alone else "")
    return ShotPanel(name, alone.main.value if alone else None, lines)


def _in_order(points: dict[int | None, Result]) -> list[tuple[int | None, Result]]:
    return sorted(points.items(), key=lambda item: (item[0] is None, item[0] or 0))
