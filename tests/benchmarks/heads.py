"""Seconds of TIP-X's divergences against a loop over queries, and of the searches for settings.

    python tests/benchmarks/heads.py [--device cuda] [--only divergences|searches]

Features are random around random class centres: 10,000 queries, 1,600 support images, 100 classes, width 512. The loop
is one vectorised KL per query over [m, c], as a reader of the equation would write it; the error is that of psi(D) V
over the images of a class, in the units of a cosine, against the same loop in float64. The searches judge 1,000
validation images, and then the support by leaving one out. CPU seconds, over all threads, are the steadier figure on a
machine that others use.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from timing import least, timed
from torch.nn.functional import normalize, one_hot

from rag_clip.classifiers import tip_adapter, tip_x
from rag_clip.classifiers.tip_adapter import TipAdapter, TipAdapterSettings
from rag_clip.classifiers.tip_x import TipX, TipXSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation

CLASSES, SHOTS, WIDTH = 100, 16, 512
LABELS = LabelSet(tuple(f"class {index}" for index in range(CLASSES)))

Draw = Callable[[int], tuple[torch.Tensor, torch.Tensor]]


def make(seed: int, device: str) -> tuple[ZeroShot, Support, Draw]:
    """Text weights, a support set of shots, and a function that draws images with their classes."""
    generator = torch.Generator().manual_seed(seed)
    common = normalize(torch.randn(WIDTH, generator=generator), dim=-1)
    centres = normalize(torch.randn(CLASSES, WIDTH, generator=generator), dim=-1)

    def images(targets: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(targets), WIDTH, generator=generator) * 3 / WIDTH**0.5
        return normalize(centres[targets] + common + noise, dim=-1).to(device)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        targets = torch.randint(CLASSES, (count,), generator=generator)
        return images(targets), targets.to(device)

    rough = torch.randn(CLASSES, WIDTH, generator=generator) * 3 / WIDTH**0.5
    text = ZeroShot(LABELS, normalize(centres + rough, dim=-1).to(device), 100.0)
    shots = torch.arange(CLASSES).repeat_interleave(SHOTS)
    names = tuple(map(str, range(len(shots))))
    support = Support(
        LABELS,
        images(shots),
        one_hot(shots, CLASSES).float().to(device),
        torch.ones(len(shots), device=device),
        ("shot",) * len(shots),
        names,
    )
    return text, support, draw


def loop(head: TipX, text: torch.Tensor) -> torch.Tensor:
    """Return KL(q || S) [n, m] for text logits [n, c], a query at a time, in their precision."""
    tau = 100 * head.temperature
    support = (head.zero_shot(Features(head.cache.keys.to(text))) / tau).log_softmax(1)
    rows = text.new_empty(len(text), len(support))
    for row, query in enumerate(text):
        signature = (query / tau).log_softmax(0)
        rows[row] = (signature.exp() * (signature - support)).sum(1)
    return rows


def loop_votes(head: TipX, text: torch.Tensor) -> torch.Tensor:
    """Return psi(D) V [n, c] for text logits [n, c] by the loop, in their precision."""
    assert head.psi is not None
    a, b = head.psi
    return (a - b * loop(head, text)) @ head.cache.votes.to(text)


def divergences(text: ZeroShot, support: Support, queries: torch.Tensor) -> None:
    """Print the seconds of divergences and of votes, by products and by the loop, and the errors of the votes."""
    head = TipXSettings(alpha=1.17, beta=1.0, gamma=5.0).build(text, support)
    asked, kept, cosines = text(Features(queries)), text(Features(support.features)), head.cache.cosines(queries)
    print(f"{len(queries)} x {len(support)} x {CLASSES}, from text logits:")
    pairs: tuple[tuple[str, Callable[[], torch.Tensor], Callable[[], torch.Tensor]], ...] = (
        ("divergences", lambda: head.divergences(asked, kept), lambda: loop(head, asked)),
        ("their votes", lambda: head.text_votes(asked, cosines), lambda: loop_votes(head, asked)),
    )
    for name, product, looped in pairs:
        product()
        (_, ours), (_, other) = least(lambda: float(product().sum()), 5), timed(lambda: float(looped().sum()))  # noqa: B023
        print(f"  {name}: product {ours.wall:.3f} s (CPU {ours.processor:.3f}), ", end="")
        print(f"loop {other.wall:.2f} s (CPU {other.processor:.2f})")
        print(f"    {other.wall / ours.wall:.0f} times faster, {other.processor / ours.processor:.0f} by CPU time")
    some, exact = asked[:200], loop_votes(head, text(Features(queries[:200].double())))
    errors = [
        float((votes - exact).abs().max() / SHOTS)
        for votes in (head.text_votes(some, cosines[:200]), loop_votes(head, some))
    ]
    print(f"  largest error of psi, mean over a class: product {errors[0]:.1e}, loop {errors[1]:.1e}")


def searches(text: ZeroShot, support: Support, draw: Draw) -> None:
    """Print the seconds of each search, what it chose, and the accuracy on other images."""
    features, targets = draw(1000)
    validation = Validation(Features(features), LABELS, targets)
    test, truth = draw(2000)
    print(f"zero-shot accuracy {float((text(Features(test)).argmax(1) == truth).float().mean()):.3f}")
    heads: tuple[tuple[str, TipAdapterSettings | TipXSettings, tuple[tuple[float, ...], ...]], ...] = (
        ("Tip-Adapter", TipAdapterSettings(), (tip_adapter.ALPHAS, tip_adapter.BETAS)),
        ("TIP-X", TipXSettings(), (tip_x.ALPHAS, tip_x.BETAS, tip_x.GAMMAS)),
    )
    for name, chosen, grid in heads:
        settings = torch.tensor([len(values) for values in grid]).prod()
        for judges in (validation, None):
            built: Callable[[], TipAdapter | TipX] = partial(chosen.build, text, support, validation=judges)
            head, spent = timed(built)
            accuracy = float((head(Features(test)).argmax(1) == truth).float().mean())
            choice = head.choice
            print(f"{name}, {int(settings):,} settings by {choice.by}: {spent.wall:.1f} s (CPU {spent.processor:.1f})")
            print(
                f"  alpha {choice.alpha:.2f}, beta {choice.beta:.2f}, gamma {choice.gamma:.2f}; accuracy {accuracy:.3f}"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--only", choices=["divergences", "searches"])
    options = parser.parse_args()
    text, support, draw = make(0, options.device)
    print(f"{options.device}, {torch.get_num_threads()} threads")
    if options.only != "searches":
        divergences(text, support, draw(options.queries)[0])
    if options.only != "divergences":
        searches(text, support, draw)


if __name__ == "__main__":
    main()
