"""Charts of other names as SVG text: those that would take the most images, and what synonyms change."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rag_clip.report.charts import FAINT, INK, PERCENT, key_above, label_ends, style, to_svg
from rag_clip.report.shown import Shown, shorten

NAMES = 15


def draw_single_names(shown: Sequence[Shown]) -> str:
    """Draw, for one run or two, the accuracy that each of the worst names takes when it alone is added."""
    with style():
        most = max(len(one.result.series("adversarial_name")) for one in shown)
        figure = Figure(figsize=(10.2 if len(shown) > 1 else 6.4, 0.9 + 0.235 * min(most, NAMES)), layout="constrained")
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        lost = [one.result.main.value - min(one.result.series("adversarial_name").values()) for one in shown]
        for axes, one in zip(panels, shown, strict=True):
            _losses(axes, one, max(*lost, 0.001))
        return to_svg(figure)


def draw_name_sets(shown: Sequence[Shown]) -> str:
    """Draw the accuracy left while the greedy set of names grows, dashed what is left by all candidates at once."""
    with style():
        figure = Figure(figsize=(10.2, 3.9), layout="constrained")
        axes = figure.subplots()
        longest = max(len(one.result.series("adversarial_set")) for one in shown)
        ends = []
        for one in shown:
            left = [one.result.main.value, *one.result.series("adversarial_set").values()]
            axes.step(range(len(left)), left, where="post", color=one.colour, linewidth=2)
            axes.plot([len(left) - 1, longest + 0.6], [left[-1]] * 2, color=one.colour, linewidth=2)
            ends.append((longest + 0.6, left[-1], one.colour))
            certified = one.result.get("certified")
            if certified:
                axes.axhline(certified.value, color=one.colour, linewidth=1.1, linestyle=(0, (4, 3)))
                ends.append((longest + 0.6, certified.value, one.colour))
        axes.set(xlim=(0, longest + 0.6), xlabel="names added, the worst next", ylabel="accuracy left")
        axes.set_ylim(bottom=0)
        label_ends(axes, ends)
        axes.set_xticks(range(0, longest + 1, 1 + longest // 20))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(axis="y")
        key_above(figure, {one.name(): one.colour for one in shown})
        return to_svg(figure)


def draw_swaps(shown: Sequence[Shown]) -> str:
    """Draw what a synonym in place of one name does in the mean: answers kept, accuracy, recall of the class."""
    with style():
        figure = Figure(figsize=(10.2, 1.05 + 0.34 * len(shown)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for place, one in enumerate(shown):
            before = {"accuracy": "accuracy", "recall": "swap_recall_before"}
            kept = one.result.get("swap_kept")
            if kept:
                panels[0].plot([kept.value, 1], [place, place], color=one.colour, linewidth=2.2, alpha=0.4)
                _point(panels[0], kept.value, place, one.colour)
            for axes, (name, metric) in zip(panels[1:], before.items(), strict=True):
                first, last = one.result.get(metric), one.result.get(f"swap_{name}")
                if first and last:
                    axes.plot([first.value, last.value], [place, place], color=one.colour, linewidth=2.2, alpha=0.4)
                    axes.plot(first.value, place, "o", color=one.colour, markersize=6, markerfacecolor="white")
                    _point(axes, last.value, place, one.colour)
        panels[0].set_yticks(range(len(shown)), [one.name() for one in shown])
        panels[0].set_ylim(len(shown) - 0.5, -0.6)
        titles = ("answers kept", "accuracy: before (open), after", "recall of the class: before (open), after")
        for axes, title in zip(panels, titles, strict=True):
            axes.set_title(title, fontsize=9.5)
            axes.margins(x=0.16)
            axes.xaxis.set_major_formatter(PERCENT)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        return to_svg(figure)


def _point(axes: Axes, value: float, place: float, colour: str) -> None:
    axes.plot(value, place, "o", color=colour, markersize=6)
    axes.annotate(
        f"{value:.1%}", (value, place), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=INK
    )


def _losses(axes: Axes, one: Shown, most: float) -> None:
    whole = one.result.main.value
    left = dict(list(one.result.series("adversarial_name").items())[:NAMES])
    for place, value in enumerate(left.values()):
        axes.barh(place, whole - value, left=value, height=0.66, color=one.colour, alpha=0.85)
        axes.annotate(
            f"{value:.1%}", (value, place), (-3, 0), textcoords="offset points", ha="right", va="center", fontsize=8
        )
    axes.axvline(whole, color=INK, linewidth=1)
    axes.annotate(
        f"{whole:.1%} before",
        (whole, 1),
        (-1, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=FAINT,
    )
    axes.set_yticks(range(len(left)), [shorten(name, 26) for name in left], fontsize=8.5)
    axes.set(xlim=(whole - 1.25 * most, whole + 0.02 * most), ylim=(len(left) - 0.5, -0.5), xlabel="accuracy left")
    axes.set_title(one.name(), pad=16)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
