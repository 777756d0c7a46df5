"""Charts of whole runs as SVG text: accuracy with intervals, openness, calibration."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .results import Measure

COLOURS = ("#5b6b7c", "#0b66b0", "#1b8a5a", "#d97a1d", "#8450a8", "#c2334d", "#1a9aa8", "#8a6a3b")
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
PERCENT = FuncFormatter(lambda value, _place: f"{value:.0%}")


@dataclass(frozen=True, slots=True)
class Bar:
    """A run in the chart of accuracies: its name with its tier, its colour, its main number, and all by metric."""

    name: str
    colour: str
    main: Measure
    measures: Mapping[str, Measure]


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style; names in scripts that the layout font lacks cost no warning."""
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def to_svg(figure: Figure) -> str:
    """Return a figure as SVG text, the same for the same figure."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", pad_inches=0.06, metadata={"Date": None})
    return stream.getvalue()


def shorten(name: str, limit: int = 22) -> str:
    """Cut a long name, with a sign that it was cut."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def draw_accuracies(bars: Sequence[Bar], *, title: str = "top-1") -> str:
    """Draw the main number, `title`, with its interval; beside it Acc-C, Acc-E and Acc-S where runs have them."""
    opened = any("acc_e" in bar.measures for bar in bars)
    with style():
        figure = Figure(figsize=(10.2, 0.75 + (0.36 if len(bars) <= FEW else 0.23) * len(bars)), layout="constrained")
        axes = figure.subplots(1, 2 if opened else 1, sharey=True, squeeze=False, width_ratios=[1.15, 1][: 1 + opened])
        _accuracy_bars(axes[0, 0], bars, title)
        if opened:
            _openness_points(axes[0, 1], bars)
        return to_svg(figure)


def draw_openness(curves: Mapping[str, tuple[str, Sequence[float]]]) -> str:
    """Draw expected accuracy against the number of groups known; `curves` are (colour, accuracies) by run."""
    with style():
        figure = Figure(figsize=(9.4, 4.1), layout="constrained")
        axes = figure.subplots()
        for colour, accuracies in curves.values():
            axes.plot(
                range(1, len(accuracies) + 1), accuracies, color=colour, linewidth=2.1, marker="o", markersize=3.6
            )
        longest = max(len(accuracies) for _, accuracies in curves.values())
        axes.set_xlim(0.7, longest + 0.3)
        ends = [accuracies[-1] for _, accuracies in curves.values()]
        low, high = axes.get_ylim()
        places = _apart(ends, (high - low) / 17)
        for (name, (colour, _)), end, place in zip(curves.items(), ends, places, strict=True):
            axes.annotate(
                f"{name}  {end:.1%}", (longest, end), (longest + 0.25, place), color=colour, va="center",
                annotation_clip=False, fontweight="bold", fontsize=9,
            )  # fmt: skip
        axes.set(xlabel="groups of classes known", ylabel="expected accuracy")
        axes.set_xticks(range(1, longest + 1, 1 + longest // 16))
        axes.yaxis.set_major_formatter(PERCENT)
        axes.grid(axis="y")
        return to_svg(figure)


def _accuracy_bars(axes: Axes, bars: Sequence[Bar], title: str) -> None:
    places = range(len(bars))
    axes.set_yticks(places, [bar.name for bar in bars])
    for place, bar in zip(places, bars, strict=True):
        one = bar.main
        axes.barh(place, one.value, height=0.62, color=bar.colour, alpha=0.88)
        edge = one.value
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
            axes.plot([one.low, one.high], [place, place], "|", color=INK, markersize=6, markeredgewidth=1.4)
            edge = one.high
        axes.text(edge + 0.012, place, f"{one.value:.1%}", va="center", fontsize=9)
    top = max(bar.main.high or bar.main.value for bar in bars)
    axes.set_xlim(0, min(1.12, top + 0.11))
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_title(f"{title}, 95 % intervals" if bars[0].main.low is not None else title)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _openness_points(axes: Axes, bars: Sequence[Bar]) -> None:
    kinds = (("acc_c", "o", "Acc-C"), ("acc_e", "s", "Acc-E"), ("acc_s", "D", "Acc-S"))
    for place, bar in enumerate(bars):
        held = [bar.measures[metric].value for metric, _, _ in kinds if metric in bar.measures]
        if not held:
            continue
        axes.plot([min(held), max(held)], [place, place], color=bar.colour, linewidth=1.6, alpha=0.45)
        for shift, (metric, marker, _) in zip((-0.17, 0.0, 0.17), kinds, strict=True):
            one = bar.measures[metric]
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [place + shift] * 2, color=bar.colour, linewidth=1, alpha=0.7)
            filled = "white" if metric == "acc_c" else bar.colour
            axes.plot(
                one.value, place + shift, marker, color=bar.colour, markersize=5, markerfacecolor=filled,
                alpha=0.55 if metric == "acc_s" else 1,
            )  # fmt: skip
    for metric, marker, title in kinds:
        axes.plot(
            [], [], marker, color=FAINT, markersize=5, label=title, alpha=0.55 if metric == "acc_s" else 1,
            markerfacecolor="white" if metric == "acc_c" else FAINT,
        )  # fmt: skip
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, frameon=False, fontsize=9, handletextpad=0.2,
        columnspacing=1.4, borderpad=0.1,
    )  # fmt: skip
    axes.xaxis.set_major_formatter(PERCENT)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0, labelleft=False)


def _apart(values: Sequence[float], least: float) -> list[float]:
    """Move values so that each is `least` from the next, keeping their order and, nearly, their place."""
    order = sorted(range(len(values)), key=lambda row: values[row])
    places = list(values)
    for _ in range(200):
        for first, second in pairwise(order):
            gap = least - (places[second] - places[first])
            if gap > 1e-9:
                places[first] -= gap / 2
                places[second] += gap / 2
    return places
