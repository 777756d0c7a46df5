"""Batches that a set of labelled images can be asked for: of all classes, of few, of many images or of few."""

from __future__ import annotations

from collections.abc import Iterator

import torch

REGIMES = ("all", "256 uniform", "64 uniform", "16 uniform", "64 of 1-4", "64 of 2-10", "300 of 2-10", "300 Zipf")


def drawn(labels: torch.Tensor, regime: str, draws: int = 12) -> Iterator[torch.Tensor]:
    """Yield the rows of some batches of a regime; of `all`, one."""
    classes, count = int(labels.max()) + 1, int(regime.split()[0]) if regime != "all" else len(labels)
    for seed in range(draws if regime != "all" else 1):
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(classes, generator=draw)
        weights = torch.ones(classes)
        if " of " in regime:
            low, high = map(int, regime.split()[-1].split("-"))
            weights[order[int(torch.randint(low, high + 1, (1,), generator=draw)) :]] = 0
        elif regime.endswith("Zipf"):
            weights = 1 / (1 + order.argsort())
        rows = (weights[labels] / labels.bincount()[labels]).double()
        if regime.endswith("uniform"):
            rows = torch.ones(len(labels)).double()
        yield torch.multinomial(rows, min(count, int((rows > 0).sum())), generator=draw)
