"""Charts of curves as SVG text: openness, margins, and accuracy against shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from rag_clip.evaluation.results import Measure
from rag_clip.report.charts import FAINT, INK, PERCENT, key_above, label_ends, style, to_svg
from rag_clip.report.shown import Shown

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)
OPENNESS = {"accuracy_by_groups": "groups of classes known", "accuracy_by_classes": "classes known, one by one"}
MARGINS = {"margin_first": "among its own group", "margin_last": "among all classes"}


@dataclass(frozen=True, slots=True)
class ShotLine:
    """What a head makes of each number of shots, None for all images; the numbers rise."""

    name: str
    colour: str
    points: Mapping[int | None, Measure]


@dataclass(frozen=True, slots=True)
class ShotPanel:
    """Heads beside one text, and what the text is worth alone."""

    name: str
    alone: float | None
    lines: tuple[ShotLine, ...]


def draw_openness(shown: Sequence[Shown]) -> str:
    """Draw expected accuracy against the number of groups known, and of single classes, for runs that have a curve."""
    metrics = [metric for metric in OPENNESS if any(one.result.series(metric) for one in shown)]
    with style():
        figure = Figure(figsize=(10.2 if len(metrics) > 1 else 7.2, 4.3), layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            curves = {one.colour: one.result.series(metric) for one in shown if one.result.series(metric)}
            _curves(axes, curves, by_size=metric == "accuracy_by_classes")
            axes.set(xlabel=OPENNESS[metric])
        panels[0].set_ylabel("expected accuracy")
        key_above(figure, {one.name(): one.colour for one in shown})
        return to_svg(figure)


def draw_margins(shown: Sequence[Shown]) -> str:
    """Draw which share of the images has a margin below each value, at the first and the last step of a vocabulary."""
    metrics = [metric for metric in MARGINS if any(one.result.series(metric) for one in shown)]
    with style():
        figure = Figure(figsize=(10.2 if len(metrics) > 1 else 7.2, 3.9), layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True, sharex=True)[0]
        ends = [value for one in shown for metric in metrics for value in one.result.series(metric).values()]
        for axes, metric in zip(panels, metrics, strict=True):
            axes.axvspan(-1e6, 0, color="#c2334d", alpha=0.05, linewidth=0)
            axes.axvline(0, color=FAINT, linewidth=0.9)
            for one in shown:
                _margins(axes, one.result.series(metric), one.colour)
            # Where every margin is zero, an axis of no length would warn.
            axes.set(xlim=(min(-1e-9, *ends) * 1.03, max(1e-9, *ends) * 1.03), ylim=(0, 1))
            axes.set_xlabel(f"margin {MARGINS[metric]}, in logits")
            for side, word in (("right", "wrong "), ("left", " right")):
                axes.text(0, 1.01, word, transform=axes.get_xaxis_transform(), ha=side, fontsize=8.5, color=FAINT)
            axes.yaxis.set_major_formatter(PERCENT)
            axes.grid(axis="both")
        panels[0].set_ylabel("images with less")
        key_above(figure, {one.name(): one.colour for one in shown})
        return to_svg(figure)


def draw_shots(panels: Sequence[ShotPanel], *, title: str) -> str:
    """Draw the main number, `title`, against the shots of each head, a panel for each text; dashed, the text alone."""
    counts = sorted({count for panel in panels for line in panel.lines for count in line.points if count is not None})
    every = log2(counts[-1]) + 1 if counts else 0.0
    places: dict[int | None, float] = {count: log2(count) for count in counts}
    if any(None in line.points for panel in panels for line in panel.lines):
        places[None] = every
    with style():
        figure = Figure(figsize=(min(10.2, 2.2 + 4.4 * len(panels)), 4.4), layout="constrained")
        row = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axes, panel in zip(row, panels, strict=True):
            _shot_panel(axes, panel, places)
        row[0].set_ylabel(title)
        key_above(figure, {line.name: line.colour for panel in panels for line in panel.lines})
        return to_svg(figure)


def _margins(axes: Axes, quantiles: Mapping[str, float], colour: str) -> None:
    """Draw one curve, thin where it runs out to the least and the greatest margin, with a dot at its error."""
    if not quantiles:
        return
    values, shares = list(quantiles.values()), [float(share) for share in quantiles]
    axes.plot(values, shares, color=colour, linewidth=0.9, alpha=0.5)
    axes.plot(values[1:-1], shares[1:-1], color=colour, linewidth=2)
    axes.plot(0, float(np.interp(0, values, shares)), "o", color=colour, markersize=5, zorder=4)


def _shot_panel(axes: Axes, panel: ShotPanel, places: Mapping[int | None, float]) -> None:
    for line in panel.lines:
        across = [places[count] for count in line.points]
        held = list(line.points.values())
        values = [one.value for one in held]
        lows = [one.value if one.low is None else one.low for one in held]
        highs = [one.value if one.high is None else one.high for one in held]
        axes.fill_between(across, lows, highs, color=line.colour, alpha=0.14, linewidth=0)
        axes.plot(across, values, color=line.colour, linewidth=2, marker="o", markersize=4)
    edge = axes.get_xlim()[1]
    ends = [(edge, list(line.points.values())[-1].value, line.colour) for line in panel.lines]
    if panel.alone is not None:
        axes.axhline(panel.alone, color=INK, linewidth=1.1, linestyle=(0, (4, 3)))
        ends.append((edge, panel.alone, INK))
    axes.set_xlim(right=edge)
    label_ends(axes, ends)
    axes.set_title(panel.name)
    axes.set_xticks(list(places.values()), ["all" if count is None else str(count) for count in places])
    axes.set(xlabel="images of each class")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid(axis="y")


def _curves(axes: Axes, curves: Mapping[str, Mapping[str, float]], *, by_size: bool) -> None:
    for colour, curve in curves.items():
        marker = "" if by_size else "o"
        axes.plot(
            [int(size) for size in curve],
            list(curve.values()),
            color=colour,
            linewidth=2,
            marker=marker,
            markersize=3.4,
        )
    largest = max(int(size) for curve in curves.values() for size in curve)
    if by_size:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([*(size for size in SIZES if 1.6 * size <= largest), largest]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.0f}"))
    else:
        axes.set_xticks(range(1, largest + 1, 1 + largest // 12))
    label_ends(axes, [(int(list(curve)[-1]), list(curve.values())[-1], colour) for colour, curve in curves.items()])
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid(axis="y")
