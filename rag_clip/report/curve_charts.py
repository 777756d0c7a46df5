"""Charts of curves as SVG: openness, margins, and accuracy against the number of shots."""

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
OPENNESS = {"accuracy_by_groups": "groups in the vocabulary", "accuracy_by_classes": "classes in the vocabulary"}
MARGINS = {"margin_first": "within its own group", "margin_last": "among all classes"}


@dataclass(frozen=True, slots=True)
class ShotLine:
    """The main number of a head by number of shots, in ascending order; None stands for all images."""

    name: str
    colour: str
    points: Mapping[int | None, Measure]


@dataclass(frozen=True, slots=True)
class ShotPanel:
    """The heads beside one text, and the main number of the text alone."""

    name: str
    alone: float | None
    lines: tuple[ShotLine, ...]


def draw_openness(shown: Sequence[Shown]) -> str:
    """Draw expected accuracy against the number of groups and of classes, for runs with such a curve."""
    metrics = [metric for metric in OPENNESS if any(run.result.series(metric) for run in shown)]
    with style():
        figure = Figure(figsize=(10.2 if len(metrics) > 1 else 7.2, 4.3), layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            curves = {run.colour: run.result.series(metric) for run in shown if run.result.series(metric)}
            _curves(axes, curves, by_size=metric == "accuracy_by_classes")
            axes.set(xlabel=OPENNESS[metric])
        panels[0].set_ylabel("expected accuracy")
        return to_svg(figure)


def draw_margins(shown: Sequence[Shown]) -> str:
    """Draw the share of images with a margin below each value, within the group and among all classes."""
    metrics = [metric for metric in MARGINS if any(run.result.series(metric) for run in shown)]
    with style():
        figure = Figure(figsize=(10.2 if len(metrics) > 1 else 7.2, 3.9), layout="constrained")
        panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True, sharex=True)[0]
        ends = [value for run in shown for metric in metrics for value in run.result.series(metric).values()]
        for axes, metric in zip(panels, metrics, strict=True):
            axes.axvspan(-1e6, 0, color="#c2334d", alpha=0.05, linewidth=0)
            axes.axvline(0, color=FAINT, linewidth=0.9)
            for run in shown:
                _margins(axes, run.result.series(metric), run.colour)
            # If every margin is zero, an axis of length zero would cause a warning.
            axes.set(xlim=(min(-1e-9, *ends) * 1.03, max(1e-9, *ends) * 1.03), ylim=(0, 1))
            axes.set_xlabel(f"margin {MARGINS[metric]}, in logits")
            for side, word in (("right", "wrong "), ("left", " right")):
                axes.text(0, 1.01, word, transform=axes.get_xaxis_transform(), ha=side, fontsize=8.5, color=FAINT)
            axes.yaxis.set_major_formatter(PERCENT)
            axes.grid(axis="both")
        panels[0].set_ylabel("images with a lower margin")
        return to_svg(figure)


def draw_shots(panels: Sequence[ShotPanel], *, title: str) -> str:
    """Draw the main number, `title`, of each head against shots, one panel per text; the text alone is dashed."""
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
    """Draw one curve, thin in the outer 5 % at both ends, with a dot at its error (the height at margin 0)."""
    if not quantiles:
        return
    values, shares = list(quantiles.values()), [float(share) for share in quantiles]
    axes.plot(values, shares, color=colour, linewidth=0.9, alpha=0.5)
    axes.plot(values[1:-1], shares[1:-1], color=colour, linewidth=2)
    axes.plot(0, float(np.interp(0, values, shares)), "o", color=colour, markersize=5, zorder=4)


def _shot_panel(axes: Axes, panel: ShotPanel, places: Mapping[int | None, float]) -> None:
    for line in panel.lines:
        across = [places[count] for count in line.points]
        measures = list(line.points.values())
        values = [measure.value for measure in measures]
        lows = [measure.value if measure.low is None else measure.low for measure in measures]
        highs = [measure.value if measure.high is None else measure.high for measure in measures]
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
    axes.set(xlabel="images per class")
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
