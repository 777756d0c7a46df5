"""Charts of other names as SVG: adversarial names, and the effect of synonyms."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rag_clip.report.charts import FAINT, INK, PERCENT, key_above, label_ends, style, to_svg
from rag_clip.report.shown import Shown, shorten

NAMES = 15


def draw_single_names(shown: Sequence[Shown]) -> str:
    """Draw, for one or two runs, the accuracy lost to each of the worst names when it is added alone."""
    with style():
        most = max(len(run.result.series("adversarial_name")) for run in shown)
        figure = Figure(figsize=(10.2 if len(shown) > 1 else 6.4, 0.9 + 0.235 * min(most, NAMES)), layout="constrained")
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        lost = [run.result.main.value - min(run.result.series("adversarial_name").values()) for run in shown]
        for axes, run in zip(panels, shown, strict=True):
            _losses(axes, run, max(*lost, 0.001))
        return to_svg(figure)


def draw_name_sets(shown: Sequence[Shown]) -> str:
    """Draw the accuracy left as the greedy set of names grows; the accuracy certified for all candidates is dashed."""
    with style():
        figure = Figure(figsize=(10.2, 3.9), layout="constrained")
        axes = figure.subplots()
        longest = max(len(run.result.series("adversarial_set")) for run in shown)
        ends = []
        for run in shown:
            left = [run.result.main.value, *run.result.series("adversarial_set").values()]
            axes.step(range(len(left)), left, where="post", color=run.colour, linewidth=2)
            axes.plot([len(left) - 1, longest + 0.6], [left[-1]] * 2, color=run.colour, linewidth=2)
            ends.append((longest + 0.6, left[-1], run.colour))
            certified = run.result.get("certified")
            if certified:
                axes.axhline(certified.value, color=run.colour, linewidth=1.1, linestyle=(0, (4, 3)))
                ends.append((longest + 0.6, certified.value, run.colour))
        axes.set(xlim=(0, longest + 0.6), xlabel="names added, the worst first", ylabel="accuracy left")
        axes.set_ylim(bottom=0)
        label_ends(axes, ends)
        axes.set_xticks(range(0, longest + 1, 1 + longest // 20))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(axis="y")
        key_above(figure, {run.name(): run.colour for run in shown})
        return to_svg(figure)


def draw_swaps(shown: Sequence[Shown]) -> str:
    """Draw the mean effect of a synonym in place of one name: predictions kept, accuracy, recall of the class."""
    with style():
        figure = Figure(figsize=(10.2, 1.05 + 0.34 * len(shown)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for place, run in enumerate(shown):
            before = {"accuracy": "accuracy", "recall": "swap_recall_before"}
            kept = run.result.get("swap_kept")
            if kept:
                panels[0].plot([kept.value, 1], [place, place], color=run.colour, linewidth=2.2, alpha=0.4)
                _point(panels[0], kept.value, place, run.colour)
            for axes, (name, metric) in zip(panels[1:], before.items(), strict=True):
                first, last = run.result.get(metric), run.result.get(f"swap_{name}")
                if first and last:
                    axes.plot([first.value, last.value], [place, place], color=run.colour, linewidth=2.2, alpha=0.4)
                    axes.plot(first.value, place, "o", color=run.colour, markersize=6, markerfacecolor="white")
                    _point(axes, last.value, place, run.colour)
        panels[0].set_yticks(range(len(shown)), [run.name() for run in shown])
        panels[0].set_ylim(len(shown) - 0.5, -0.6)
        titles = ("predictions kept", "accuracy: before (open), after", "recall of the class: before (open), after")
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


def _losses(axes: Axes, run: Shown, most: float) -> None:
    whole = run.result.main.value
    left = dict(list(run.result.series("adversarial_name").items())[:NAMES])
    for place, value in enumerate(left.values()):
        axes.barh(place, whole - value, left=value, height=0.66, color=run.colour, alpha=0.85)
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
    axes.set_title(run.name(), pad=16)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
