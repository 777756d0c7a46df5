"""The style of the report's charts, and the chart of accuracies, as SVG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rag_clip.report.shown import PALE, Shown

INK, FAINT, LINE = "#1d2733", "#5a6b7b", "#d5dce3"
_STYLE: dict[Any, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e8edf1",
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "svg.hashsalt": "rag-clip",
}
FEW = 24
SHIFTS = (-0.17, 0.0, 0.17)
PERCENT = FuncFormatter(lambda value, _place: f"{100 * value:.4g}%")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style during the block, without warnings for characters missing from the font."""
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def to_svg(figure: Figure) -> str:
    """Return a figure as SVG; equal figures give equal text."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", pad_inches=0.06, metadata={"Date": None})
    return stream.getvalue()


def key_above(figure: Figure, lines: Mapping[str, str]) -> None:
    """Draw the legend of a figure above its panels; `lines` are colours by name."""
    columns = max(1, min(4, int(13 * figure.get_figwidth() / (8 + max(map(len, lines), default=0)))))
    handles = [Line2D([], [], color=colour, linewidth=3, solid_capstyle="butt") for colour in lines.values()]
    figure.legend(
        handles,
        list(lines),
        loc="outside upper left",
        ncols=min(columns, len(lines)),
        frameon=False,
        fontsize=9,
        handlelength=1.1,
        handletextpad=0.5,
        columnspacing=1.6,
        labelcolor=INK,
    )


def _spread(values: Sequence[float], least: float, top: float) -> list[float]:
    """Move values as little as possible, in their order, so that they are `least` apart and none is above `top`."""
    order = sorted(range(len(values)), key=lambda row: values[row])
    places = list(values)
    for _ in range(200):
        for first, second in pairwise(order):
            gap = least - (places[second] - places[first])
            if gap > 1e-9:
                places[first] -= gap / 2
                places[second] += gap / 2
    for row in reversed(order):
        places[row] = min(places[row], top)
        top = places[row] - least
    return places


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str]]) -> None:
    """Write each line's last value beside its end (x, y, colour), without overlap."""
    low, high = axes.get_ylim()
    places = _spread([value for _, value, _ in ends], (high - low) / 20, high)
    for (across, value, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            f"{value:.1%}",
            (across, place),
            (7, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
            fontweight="bold",
            fontsize=8.5,
        )


def draw_accuracies(bars: Sequence[Shown], *, title: str = "top-1") -> str:
    """Draw the main number, `title`, with its bounds, and beside it Acc-C, Acc-E and Acc-S if runs have them.

    Many runs are drawn as points on an axis from the lowest to the highest, because bars from zero would look alike.
    """
    opened = any(bar.result.get("acc_e") for bar in bars)
    with style():
        figure = Figure(figsize=(10.2, 0.75 + (0.36 if len(bars) <= FEW else 0.17) * len(bars)), layout="constrained")
        axes = figure.subplots(1, 2 if opened else 1, sharey=True, squeeze=False, width_ratios=[1.15, 1][: 1 + opened])
        (_accuracy_bars if len(bars) <= FEW else _accuracy_points)(axes[0, 0], bars)
        axes[0, 0].set_title(title)
        if opened:
            _openness_points(axes[0, 1], bars)
        return to_svg(figure)


def _accuracy_bars(axes: Axes, bars: Sequence[Shown]) -> None:
    for place, bar in enumerate(bars):
        axes.barh(place, bar.result.main.value, height=0.62, color=bar.colour, alpha=0.88)
        axes.text(_edge(bar) + 0.012, place, f"{bar.result.main.value:.1%}", va="center", fontsize=9)
        _draw_bounds(axes, bar, place, INK, thick=1.4)
    axes.set_xlim(0, min(1.12, max(map(_edge, bars)) + 0.11))
    _name_rows(axes, bars)


def _accuracy_points(axes: Axes, bars: Sequence[Shown]) -> None:
    least, top = min(bar.result.main.low or bar.result.main.value for bar in bars), max(map(_edge, bars))
    span = max(top - least, 0.01)
    for place, bar in enumerate(bars):
        colour = FAINT if bar.colour == PALE else bar.colour
        _draw_bounds(axes, bar, place, bar.colour, thick=1.6)
        axes.plot(bar.result.main.value, place, "o", color=colour, markersize=4.5)
        axes.text(_edge(bar) + 0.02 * span, place, f"{bar.result.main.value:.1%}", va="center", fontsize=7.5)
    axes.set_xlim(least - 0.03 * span, top + 0.16 * span)
    _name_rows(axes, bars)
    axes.tick_params(axis="y", labelsize=7.5)
    axes.tick_params(axis="x", top=True, labeltop=True)


def _draw_bounds(axes: Axes, bar: Shown, place: int, colour: str, *, thick: float) -> None:
    if bounds := bar.result.main.bounds:
        axes.plot(bounds, [place, place], color=colour, linewidth=thick, solid_capstyle="butt")
        axes.plot(bounds, [place, place], "|", color=colour, markersize=4.5 * thick**0.5, markeredgewidth=thick)


def _edge(bar: Shown) -> float:
    """Return the right end of a run's bar or interval."""
    main = bar.result.main
    return main.value if main.high is None else main.high


def _name_rows(axes: Axes, bars: Sequence[Shown]) -> None:
    axes.set_yticks(range(len(bars)), [bar.name() for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _openness_points(axes: Axes, bars: Sequence[Shown]) -> None:
    kinds = (("acc_c", "o", "Acc-C"), ("acc_e", "s", "Acc-E"), ("acc_s", "D", "Acc-S"))
    for place, bar in enumerate(bars):
        points = [
            (bar.result.get(metric), metric, marker, shift)
            for (metric, marker, _), shift in zip(kinds, SHIFTS, strict=True)
        ]
        values = [result.value for result, *_ in points if result]
        if values:
            axes.plot([min(values), max(values)], [place, place], color=bar.colour, linewidth=1.6, alpha=0.45)
        for result, metric, marker, shift in points:
            if result is None:
                continue
            if result.bounds:
                axes.plot(result.bounds, [place + shift] * 2, color=bar.colour, linewidth=1, alpha=0.7)
            filled = "white" if metric == "acc_c" else bar.colour
            axes.plot(
                result.value,
                place + shift,
                marker,
                color=bar.colour,
                markersize=5,
                markerfacecolor=filled,
                alpha=0.55 if metric == "acc_s" else 1,
            )
    for metric, marker, title in kinds:
        axes.plot(
            [],
            [],
            marker,
            color=FAINT,
            markersize=5,
            label=title,
            alpha=0.55 if metric == "acc_s" else 1,
            markerfacecolor="white" if metric == "acc_c" else FAINT,
        )
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=3,
        frameon=False,
        fontsize=9,
        handletextpad=0.2,
        columnspacing=1.4,
        borderpad=0.1,
    )
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(PERCENT)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0, labelleft=False)
