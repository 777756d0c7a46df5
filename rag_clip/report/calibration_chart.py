"""Reliability diagrams as SVG: accuracy against confidence, and the share of images in each bin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rag_clip.report.charts import FAINT, PERCENT, style, to_svg


def draw_reliability(runs: Mapping[str, tuple[str, np.ndarray, np.ndarray]], bins: int = 15) -> str:
    """Draw accuracy against confidence, and the share of images in each bin, for several runs.

    runs: by name, the colour, the confidence float [n], and whether each prediction is right, bool [n].
    bins: the number of bins.
    """
    rows = -(-len(runs) // 5)
    columns = -(-len(runs) // rows)
    with style():
        figure = Figure(figsize=(min(10.6, 3.0 * columns), 2.9 * rows), layout="constrained")
        panels = figure.subplots(
            2 * rows, columns, squeeze=False, sharex=True, height_ratios=[4, 1] * rows, gridspec_kw={"hspace": 0.04}
        )
        for axes in panels.flat:
            axes.set_visible(False)
        for number, (name, (colour, confidence, right)) in enumerate(runs.items()):
            row, column = divmod(number, columns)
            _reliability_panel(
                panels[2 * row, column], panels[2 * row + 1, column], name, colour, confidence, right, bins
            )
            if column == 0:
                panels[2 * row, 0].set_ylabel("accuracy")
                panels[2 * row + 1, 0].set_ylabel("images")
        return to_svg(figure)


def _reliability_panel(
    axes: Axes, below: Axes, name: str, colour: str, confidence: np.ndarray, right: np.ndarray, bins: int
) -> None:
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # [n]
    count = np.bincount(bin_of, minlength=bins)  # [bins]
    accuracy = np.bincount(bin_of, weights=right, minlength=bins) / np.maximum(count, 1)
    mean = np.bincount(bin_of, weights=confidence, minlength=bins) / np.maximum(count, 1)
    left, width = np.arange(bins) / bins, 1 / bins
    filled = count > 0
    axes.set_visible(True)
    lower, gap = np.minimum(accuracy, mean), np.abs(accuracy - mean)
    # Accuracy missing below the confidence is red; accuracy above it is a lighter shade of the run's colour.
    shades = [to_rgba("#c2334d", 0.16) if low else to_rgba(colour, 0.4) for low in (accuracy < mean)[filled]]
    frame: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.6}
    axes.bar(left[filled], lower[filled], width, color=to_rgba(colour, 0.88), **frame)
    axes.bar(left[filled], gap[filled], width, bottom=lower[filled], color=shades, **frame)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (3, 3)))
    error = float((gap * count).sum() / count.sum())
    axes.set_title(name, fontsize=9.5)
    axes.text(
        0.04,
        0.94,
        f"ECE {error:.1%}",
        transform=axes.transAxes,
        fontsize=9,
        va="top",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    below.set_visible(True)
    below.bar(left, count / count.sum(), width, align="edge", color=colour, alpha=0.5, edgecolor="white", linewidth=0.6)
    below.set(xlim=(0, 1), xlabel="confidence")
    for each in (axes, below):
        each.xaxis.set_major_formatter(PERCENT)
        each.yaxis.set_major_formatter(PERCENT)
    below.yaxis.set_major_locator(MaxNLocator(2))
    below.set_xticks([0, 0.5, 1])
    below.tick_params(labelbottom=True)
