"""DPT in the micro world: does it help to learn visual prompts beside the context, and to make them class-aware?

    cd tests/benchmarks && python -m adaptation.dpt [--steps 200] [--shots 4 16] [--seeds 3] [--rate 0.12]
        [--arms coop visual both dpt]

Sixty names of all bands, some of which the model hardly knows. Arms of equal steps, batches and rates: the context
alone (CoOp), learned visual tokens in every block beside the fixed text, both, and DPT (r = 4, K = 5, b = the last
block of four, the first half of the steps guided). All contexts start at "a photo of". The claim is that DPT has two
points more than CoOp at 4 and at 16 shots. The rate is the authors' 0.01 at the scale 100, times (100 / 28.4)^2, since
a step changes logits by scale^2 times the rate; `--judge` measures on other photographs, to compare rates.
Gains are over the first of the arms.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from adaptation.world import bundled, embed, interval, labelled
from torch.nn.functional import one_hot

from rag_clip.classifiers.contexts import Context
from rag_clip.classifiers.dpt import DPTSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import LabelSet, Support
from rag_clip.demo.concepts import concepts
from rag_clip.training.loop import Schedule

NAMES, TESTED = 60, 10
PUBLISHED = Schedule(batch_size=32, optimiser="sgd", weight_decay=5e-4)
TEST, JUDGE, SHOT = 2**62 + 70_000, 2**62 + 80_000, 2**62 + 90_000


def main() -> None:
    """Run each arm for each number of shots and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--shots", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.12)
    parser.add_argument("--arms", nargs="+", default=["coop", "visual", "both", "dpt"])
    parser.add_argument("--judge", action="store_true")
    options = parser.parse_args()
    encoder, rows = bundled(), list(range(0, len(concepts()), len(concepts()) // NAMES))
    labels = LabelSet(tuple(concepts()[row].name for row in rows))
    texts = encoder.encode_text([f"a photo of {name}." for name in labels.names])
    text = ZeroShot(labels, texts, encoder.scale)
    shown, truth = labelled(rows, seed=JUDGE if options.judge else TEST, count=TESTED)
    alone = (embed(encoder, shown) @ texts.T).argmax(1) == truth
    print(f"texts alone {100 * float(alone.float().mean()):.1f}", flush=True)
    for shots in options.shots:
        right: dict[str, list[np.ndarray]] = {}
        for seed in range(options.seeds):
            support = draw_support(rows, labels, shots, seed)
            for name in options.arms:
                settings = arms(options.steps, options.rate, seed)[name]
                started = time.perf_counter()
                head = settings.build(text, support, encoder=encoder)
                features = torch.cat([head.tower.encode_pixels(part).pooled for part in torch.split(shown, 256)])
                right.setdefault(name, []).append(((features @ head.learned.weights.T).argmax(1) == truth).numpy())
                seconds = time.perf_counter() - started
                mean = 100 * right[name][-1].mean()
                print(f"{shots} shots, seed {seed}, {name:<7} {mean:.1f}  ({seconds:.0f} s)", flush=True)
        for name, found in right.items():
            means = [100 * each.mean() for each in found]
            gain, low, high = interval(np.concatenate(right[options.arms[0]]), np.concatenate(found))
            over = f"over {options.arms[0]} {gain:+.1f} [{low:+.1f}, {high:+.1f}]"
            print(f"{shots} shots {name:<7} {np.mean(means):.1f} ({min(means):.1f} to {max(means):.1f}), {over}")


def arms(steps: int, rate: float, seed: int) -> dict[str, DPTSettings]:
    """Return the settings of each arm."""
    schedule = replace(PUBLISHED, steps=steps, rate=rate, warm_up=max(1, steps // 20), seed=seed)
    context, half = Context(words="a photo of"), steps // 2
    return {
        "coop": DPTSettings(context=context, length=0, top=0, guided=0, schedule=schedule),
        "visual": DPTSettings(context=context, length=4, top=0, guided=0, text_rate=0, schedule=schedule),
        "both": DPTSettings(context=context, length=4, top=0, guided=half, schedule=schedule),
        "dpt": DPTSettings(context=context, length=4, top=5, guided=half, schedule=schedule),
    }


def draw_support(rows: list[int], labels: LabelSet, shots: int, seed: int) -> Support:
    """Return `shots` photographs of each name, with their pixels."""
    pixels, classes = labelled(rows, seed=SHOT + 100 * seed, count=shots)
    count = len(pixels)
    return Support(
        labels,
        embed(bundled(), pixels),
        one_hot(classes, len(rows)).float(),
        torch.ones(count),
        ("shot",) * count,
        tuple(map(str, range(count))),
        pixels=pixels,
    )


if __name__ == "__main__":
    main()
