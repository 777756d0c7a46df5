"""Charts of single classes as SVG: which are confused, and which gain or lose from one run to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rag_clip.display import counted
from rag_clip.report.charts import FAINT, INK, PERCENT, style, to_svg
from rag_clip.report.shown import shorten

GAIN, LOSS = "#1b8a5a", "#c2334d"
NAMES_SHOWN = 10
SIDE_BY_SIDE = 13


def draw_confusions(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    """Draw confusion matrices of some classes side by side, one per run: images [c, c] by label and prediction."""
    size = len(names)
    with style():
        figure = Figure(figsize=(1.9 + 0.33 * size * len(matrices), 1.7 + 0.31 * size), layout="constrained")
        panels = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
        most = max(1, max(int(matrix.max()) for matrix in matrices.values()))
        for axes, (run, matrix) in zip(panels, matrices.items(), strict=True):
            wrong = ~np.eye(size, dtype=bool)
            shown = np.zeros((size, size, 4))
            shown[wrong] = _shade(np.sqrt(matrix[wrong] / most), LOSS)
            shown[~wrong] = _shade(np.sqrt(matrix[~wrong] / most), "#0b66b0")
            axes.imshow(shown, aspect="auto")
            for row, column in zip(*np.nonzero(matrix), strict=True):
                deep = matrix[row, column] / most > 0.55
                axes.text(
                    column,
                    row,
                    str(int(matrix[row, column])),
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color="white" if deep else INK,
                )
            axes.set_title(run)
            _name_cells(axes, names)
            axes.set_xlabel("predicted")
        panels[0].set_ylabel("label")
        return to_svg(figure)


def draw_thefts(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    """Draw, by run, the shares [g, g] of a group's images (rows) that each group (columns) takes; NaN stays white."""
    size = len(names)
    beside = size <= SIDE_BY_SIDE
    panels, width, height = len(matrices), 0.4 if beside else 0.32, 0.31 if beside else 0.25
    with style():
        across, down = (panels, 1) if beside else (1, panels)
        figure = Figure(
            figsize=(1.9 + width * size * across, 1.5 * down + height * size * down + 0.4), layout="constrained"
        )
        grid = figure.subplots(down, across, squeeze=False, sharey=beside)
        most = max(0.01, max(float(np.nanmax(matrix, initial=0)) for matrix in matrices.values()))
        for axes, (run, matrix) in zip(grid.flat, matrices.items(), strict=True):
            shares = np.nan_to_num(matrix)
            axes.imshow(_shade(shares.ravel() / most, LOSS).reshape(size, size, 4), aspect="auto")
            for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
                axes.text(
                    column,
                    row,
                    f"{100 * shares[row, column]:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7.5 if beside else 6.5,
                    color="white" if shares[row, column] / most > 0.6 else INK,
                )
            for place in range(size):
                axes.add_patch(
                    Rectangle((place - 0.5, place - 0.5), 1, 1, fill=False, edgecolor=FAINT, linewidth=1, zorder=3)
                )
            axes.set_title(run)
            _name_cells(axes, names)
            axes.set_xlabel("taken by")
        for axes in grid[:, 0]:
            axes.set_ylabel("% of the images of")
        return to_svg(figure)


def draw_gains(names: Sequence[str], before: np.ndarray, after: np.ndarray) -> str:
    """Draw the sorted changes of recall of all classes, and the classes with the largest gains and losses by name.

    names: of the c classes.
    before, after: their recalls, float [c].
    """
    change = after - before
    order = np.argsort(-change, kind="stable")
    with style():
        figure = Figure(figsize=(10.2, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
        ordered = change[order]
        edges = np.arange(len(ordered) + 1)
        for part, colour in ((np.maximum(ordered, 0), GAIN), (np.minimum(ordered, 0), LOSS)):
            left.stairs(part, edges, fill=True, color=colour, alpha=0.85, linewidth=0)
        left.axhline(0, color=FAINT, linewidth=0.8)
        left.set_title(
            f"{counted(int((change > 0).sum()), 'class')} better, {int((change < 0).sum())} worse, "
            f"{int((change == 0).sum())} the same"
        )
        left.set(xlabel="classes, sorted by change", ylabel="change of recall", xlim=(0, len(change)))
        left.xaxis.get_major_locator().set_params(integer=True)
        left.yaxis.set_major_formatter(PERCENT)
        left.grid(axis="y")
        ends = _ends(order, change)
        for place, row in enumerate(ends):
            colour = GAIN if change[row] > 0 else LOSS
            right.plot([before[row], after[row]], [place, place], color=colour, linewidth=2.2, alpha=0.5)
            right.plot(before[row], place, "o", color=colour, markersize=4.5, markerfacecolor="white")
            right.plot(after[row], place, "o", color=colour, markersize=5.5)
        right.set_yticks(range(len(ends)), [shorten(names[row], 30) for row in ends], fontsize=8)
        right.set_ylim(len(ends) - 0.5, -0.5)
        right.set_xlim(-0.04, 1.04)
        right.set_title("recall before (open) and after (full)")
        right.xaxis.set_major_formatter(PERCENT)
        right.grid(axis="x")
        right.tick_params(axis="y", length=0)
        return to_svg(figure)


def _name_cells(axes: Axes, names: Sequence[str]) -> None:
    size = len(names)
    axes.set_xticks(range(size), [shorten(name) for name in names], rotation=55, ha="right", fontsize=8)
    axes.set_yticks(range(size), [shorten(name) for name in names], fontsize=8)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e8edf1", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _ends(order: np.ndarray, change: np.ndarray) -> list[int]:
    gains = [int(row) for row in order[:NAMES_SHOWN] if change[row] > 0]
    losses = [int(row) for row in order[::-1][:NAMES_SHOWN] if change[row] < 0]
    return [*gains, *reversed(losses)]


def _shade(share: np.ndarray, colour: str) -> np.ndarray:
    """Return RGBA [k, 4] for shares [k]: from white at 0 to the colour at 1."""
    full = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    mixed = 1 + np.clip(share, 0, 1)[:, None] * (full - 1)
    return np.concatenate([mixed, np.ones((len(share), 1))], axis=1)
