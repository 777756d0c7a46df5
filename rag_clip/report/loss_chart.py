"""The loss curve of a training run, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rag_clip.report.charts import FAINT, style

LOSS, MEAN = "#9db8d9", "#1d5fa8"
DOTS = 150


def draw_losses(losses: Sequence[float], *, title: str) -> bytes:
    """Draw the loss of each step, and its mean over a twentieth of the steps, as the bytes of a PNG."""
    values = np.asarray(losses, float)
    steps = np.arange(1, len(values) + 1)
    width = max(1, len(values) // 20)
    means = np.convolve(values, np.ones(width) / width, mode="valid")
    with style():
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, values, color=LOSS, linewidth=0.8, label="loss of a step")
        axes.plot(steps[width - 1 :], means, color=MEAN, linewidth=1.8, label=f"mean of {width} steps")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.set_title(title, loc="left")
        axes.grid(axis="y", color=FAINT, linewidth=0.4)
        axes.legend(frameon=False)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
