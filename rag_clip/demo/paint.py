"""Train the micro world's painter: `python -m rag_clip.demo.paint [--out DIR] [--steps N]`.

Denoising diffusion (Ho et al., 2020, arXiv 2006.11239) that predicts the clean image, with classifier-free guidance (Ho
and Salimans, 2022, arXiv 2207.12598), on the cosine schedule of Nichol and Dhariwal (2021, arXiv 2102.09672). The loss
weight is min(signal-to-noise + 1, 5), after Hang et al. (2023, arXiv 2303.09556). The only text input is the embedding
of the demo encoder. Pairs are those of the demo encoder's training: designs without a name, and named concepts by
frequency; the unseen band is never shown and never named. An image is the design on a plain background, slightly
rotated and shifted. The saved weights are a running mean over the steps.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import affine_grid, grid_sample

from rag_clip.demo.captions import KINDS, anonymous_caption, caption
from rag_clip.demo.concepts import concepts
from rag_clip.demo.diffusion import TRAIN_TIMES, add_noise, save_schedule, signal_shares
from rag_clip.demo.train import KIND_SHARES, make_pairs
from rag_clip.demo.train_log import note, unfinished
from rag_clip.demo.unet import SIDE, Denoiser, save_denoiser
from rag_clip.protocols import Encoder
from rag_clip.training import loop

SEED, STEPS, BATCH, RATE, WARM_UP, KEPT_EVERY = 20261124, 1250, 128, 2e-3, 100, 250
NAMED_SHARE, CAPTIONS, WITHOUT_TEXT, HIGHEST_WEIGHT, SLOWEST_MEAN = 0.25, 4, 0.1, 5.0, 0.998


@dataclass(frozen=True, slots=True)
class Examples:
    """Training data of the painter.

    textures: uint8 [t, 4, height, width], designs without a name first.
    texts: embedded captions, [t, CAPTIONS, d].
    named: number of named designs.
    shares: their sampling probabilities.
    batch: pairs per step.
    """

    textures: torch.Tensor
    texts: torch.Tensor
    named: int
    shares: np.ndarray
    batch: int = BATCH


def make_examples(encoder: Encoder) -> Examples:
    """Return the training data: captions are generated for every design and embedded."""
    pairs = make_pairs()
    draw = np.random.default_rng([SEED, 1])
    texts = [anonymous_caption(design, draw) for design in pairs.anonymous for _ in range(CAPTIONS)]
    for concept in concepts():
        kinds = draw.choice(KINDS, size=CAPTIONS, p=KIND_SHARES)
        texts += [caption(concept, str(kind), draw) for kind in kinds]
    embedded = torch.cat([encoder.encode_text(texts[start : start + 1024]) for start in range(0, len(texts), 1024)])
    textures = torch.cat([pairs.anonymous_textures, pairs.textures])
    return Examples(textures, embedded.view(len(textures), CAPTIONS, -1), len(pairs.textures), pairs.shares)


def draw_batch(examples: Examples, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [b, 3, SIDE, SIDE] in [-1, 1] and texts [b, d] of a step; they depend on the step only."""
    draw = np.random.default_rng([SEED, 2, step])
    batch = examples.batch
    named = round(batch * NAMED_SHARE)
    nameless = len(examples.textures) - examples.named
    rows = np.concatenate(
        [
            draw.integers(nameless, size=batch - named),
            nameless + draw.choice(examples.named, named, p=examples.shares),
        ]
    )
    texts = examples.texts[rows, draw.integers(CAPTIONS, size=batch)]  # [b, d]
    texts = texts * torch.from_numpy(draw.random((batch, 1)) >= WITHOUT_TEXT)  # zeros: no text, for the guidance
    return backdrop(examples.textures[rows], seed=int(draw.integers(2**62))), texts.float()


def backdrop(textures: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Return RGBA textures uint8 [n, 4, t, t] on plain backgrounds, [n, 3, SIDE, SIDE] in [-1, 1].

    They are rotated by up to 6 degrees, scaled to 82-93 %, and shifted by up to 3 %.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(textures)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    angle, zoom, shift = uniform(-0.1, 0.1), uniform(1.08, 1.22), uniform(-0.06, 0.06, 2)
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    pose = torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], dim=1).view(n, 2, 3)
    rgba = textures.float() / 255
    # Premultiplied alpha, so that colours of transparent pixels do not leak into the edges.
    ink = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)  # [n, 4, t, t]
    # Rendered at twice the size, then averaged over 2 x 2 pixels, for smooth edges.
    seen = grid_sample(ink, affine_grid(pose, [n, 1, 2 * SIDE, 2 * SIDE], align_corners=False), align_corners=False)
    seen = torch.nn.functional.avg_pool2d(seen, 2)
    plain = uniform(0.2, 0.9, 1, 1, 1) + uniform(-0.12, 0.12, 3, 1, 1)
    return (seen[:, :3] + (1 - seen[:, 3:]) * plain).clamp(0, 1) * 2 - 1


def train(out: Path, *, encoder: Encoder, steps: int = STEPS, examples: Examples | None = None) -> None:
    """Train on the CPU, and write unet/, scheduler/ and train.log to `out`, with a snapshot every KEPT_EVERY steps.

    A killed training resumes from its last snapshot. `examples` default to `make_examples(encoder)`.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    examples = examples or make_examples(encoder)
    save_schedule(out / "scheduler")
    _run(Denoiser(), examples, out, steps=steps)
    unfinished(out, every=KEPT_EVERY).path.unlink()


def _run(denoiser: Denoiser, examples: Examples, out: Path, *, steps: int) -> None:
    mean = Denoiser().requires_grad_(False)
    mean.load_state_dict(denoiser.state_dict())
    checkpoint = unfinished(out, every=KEPT_EVERY)
    if not checkpoint.path.exists():
        parameters = sum(value.numel() for value in denoiser.parameters())
        note(out, {"parameters": parameters, "batch": examples.batch, "seed": SEED, "torch": torch.__version__})
    start, losses = time.process_time(), list[float]()

    def loss(step: int) -> torch.Tensor:
        return denoising_loss(denoiser, *draw_batch(examples, step), step)

    def after(step: loop.Step) -> None:
        pace = 1 - min(SLOWEST_MEAN, step.number / (9 + step.number))
        for kept, value in zip(mean.parameters(), denoiser.parameters(), strict=True):
            kept.lerp_(value.detach(), pace)
        losses.append(step.loss)
        if step.number % KEPT_EVERY == 0 or step.number == steps:
            seconds = round(time.process_time() - start, 1)
            note(out, {"step": step.number, "loss": round(sum(losses) / len(losses), 4), "cpu_seconds": seconds})
            save_denoiser(mean, out / "unet")
            losses.clear()

    schedule = loop.Schedule(
        steps=steps,
        rate=RATE,
        decay="constant",
        warm_up=WARM_UP,
        warm_up_rate=None,
        betas=(0.9, 0.98),
        clip=1.0,
        seed=SEED,
    )
    values = [*denoiser.parameters(), *mean.parameters()]
    loop.train(values, loss, count, schedule=schedule, checkpoint=checkpoint, after=after)


def denoising_loss(denoiser: Denoiser, images: torch.Tensor, texts: torch.Tensor, step: int) -> torch.Tensor:
    """Return the weighted mean squared error of the predicted clean images, at one random time per image."""
    generator = torch.Generator().manual_seed(SEED + step)
    times = torch.randint(TRAIN_TIMES, (len(images),), generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    share = signal_shares()[times]  # [b]
    weight = (share / (1 - share) + 1).clamp(max=HIGHEST_WEIGHT)  # [b]
    with torch.autocast("cpu", torch.bfloat16):
        found = denoiser(add_noise(images, noise, times), times, texts)
    squares = (found.float() - images).square().mean((1, 2, 3))  # [b]
    loss: torch.Tensor = (weight * squares).mean()
    return loss


if __name__ == "__main__":
    from rag_clip.models.open_clip import load_encoder

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets" / "painter")
    parser.add_argument("--steps", type=int, default=STEPS)
    chosen = parser.parse_args()
    train(chosen.out, encoder=load_encoder("demo", device="cpu", precision="fp32"), steps=chosen.steps)
