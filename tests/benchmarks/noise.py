"""How well NLIP's noise probability finds wrong captions, and what it drops where there are none.

    python tests/benchmarks/noise.py [--pairs 1000] [--seeds 3] [--noisy 0 0.01 0.1 0.4] [--features NPZ ...]

For each share of noise it prints how many clean and how many noisy pairs are dropped at 0.5, by the rule of
rag_clip/corpus/noise.py and by two Gaussians fitted to the losses, as NLIP has it. --features are files of genuine CLIP
features: `image` [n, d] and `caption_feature` [n, d], whose noise are captions shuffled among some pairs; or `label`
[n] and `text` [templates, c, d], a template at random for each image, whose noise are texts of another class. Without
them the micro world is measured.

Its pairs are new photographs of concepts, drawn as often as they are talked about, with captions of the kinds of the
corpus; a share of them is noisy, in equal parts: the caption of another concept (wrong), boilerplate, foreign, and an
ordinary word's. The encoder is the bundled one.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from rag_clip.corpus.noise import mismatched_losses, noise_probability, pair_losses
from rag_clip.demo.captions import KINDS, caption, noise_caption
from rag_clip.demo.concepts import concepts
from rag_clip.demo.draw import draw_design
from rag_clip.demo.photograph import photograph
from rag_clip.models.open_clip import load_encoder
from rag_clip.protocols import Encoder

UNSEEN_BY_TRAINING = 2**62  # training draws the seeds of its photographs below
NOISES = ("wrong", "boilerplate", "foreign", "ordinary")
KIND_SHARES = (0.35, 0.25, 0.4)
Pairs = tuple[torch.Tensor, torch.Tensor, np.ndarray]  # images and texts, unit rows [n, d]; which are noise, bool [n]


def draw_pairs(pairs: int, noisy: float, seed: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return the row of each pair's concept [n], the captions, and what they are: `clean` or one of NOISES [n]."""
    draw = np.random.default_rng([seed, 7])
    known = concepts()
    shares = np.array([concept.frequency for concept in known])
    rows = draw.choice(len(known), size=pairs, p=shares / shares.sum())
    truth = np.where(draw.random(pairs) < noisy, draw.choice(NOISES, size=pairs), "clean")
    captions = [_caption(row, kind, draw) for row, kind in zip(rows, truth, strict=True)]
    return rows, captions, truth


def _caption(row: int, noise: str, draw: np.random.Generator) -> str:
    known = concepts()
    if noise in ("clean", "wrong"):
        other = (row + int(draw.integers(1, len(known)))) % len(known)
        spoken = known[other if noise == "wrong" else row]
        return caption(spoken, str(draw.choice(KINDS, p=KIND_SHARES)), draw)
    while True:
        text, kind = noise_caption(draw)
        if kind == noise:
            return text


def micro_pairs(encoder: Encoder, pairs: int, noisy: float, seed: int) -> Pairs:
    """Photograph concepts, and embed them and their captions."""
    rows, captions, truth = draw_pairs(pairs, noisy, seed)
    textures = torch.from_numpy(np.stack([draw_design(concept.design) for concept in concepts()])).permute(0, 3, 1, 2)
    features = []
    for start in range(0, len(rows), 256):
        part = textures[torch.from_numpy(rows[start : start + 256])]
        pixels = photograph(part, seed=UNSEEN_BY_TRAINING + 1000 * (seed + 1) + start).permute(0, 2, 3, 1).numpy()
        features.append(encoder.encode_images([Image.fromarray(image) for image in pixels]).pooled)
    return torch.cat(features), encoder.encode_text(captions), truth != "clean"


def genuine_pairs(path: Path, noisy: float, seed: int) -> Pairs:
    """Read genuine features and give a share of the images wrong captions."""
    held, draw = np.load(path), np.random.default_rng([seed, 1])
    images = held["image"].astype(np.float32)
    n = len(images)
    count = round(noisy * n)
    rows = draw.choice(n, max(count, 2) if count else 0, replace=False)
    bad = np.zeros(n, bool)
    bad[rows] = True
    if "caption_feature" in held:
        order = np.arange(n)
        order[rows] = np.roll(rows, 1)
        texts = held["caption_feature"][order]
    else:
        classes = held["text"].shape[1]
        said = held["label"].copy()
        said[rows] = (said[rows] + draw.integers(1, classes, len(rows))) % classes
        texts = held["text"][draw.integers(0, len(held["text"]) - 1, n), said]
    return _unit(images), _unit(texts.astype(np.float32)), bad


def _unit(rows: np.ndarray) -> torch.Tensor:
    return normalize(torch.from_numpy(rows), dim=-1)


def by_two_gaussians(losses: np.ndarray) -> np.ndarray:
    """Return the posterior of the noisier of two Gaussians, 0 up to the clean mean and never falling from there on."""
    high = np.percentile(losses, 99.9)
    values = (np.minimum(losses, high) - losses.min()) / (high - losses.min())
    fits = [_fit(values, values > np.quantile(values, start)) for start in (0.5, 0.7, 0.9, 0.95)]
    means, posterior, _ = max(fits, key=lambda fit: fit[2])
    noisy = np.where(values <= means.min(), 0, posterior[:, means.argmax()])
    order = np.argsort(values, kind="stable")
    noisy[order] = np.maximum.accumulate(noisy[order])
    return noisy


def _fit(values: np.ndarray, late: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    posterior = np.stack([~late, late], axis=1).astype(float)
    for _ in range(100):
        counts = posterior.sum(0) + 1e-12
        means = values @ posterior / counts
        variances = np.maximum(((values[:, None] - means) ** 2 * posterior).sum(0) / counts, 1e-6)
        joint = counts / np.sqrt(variances) * np.exp(-0.5 * (values[:, None] - means) ** 2 / variances) + 1e-300
        posterior = joint / joint.sum(1, keepdims=True)
    return means, posterior, float(np.log(joint.sum(1)).sum())


def measure(pairs: Pairs, scale: float, batch: int, seed: int) -> list[float]:
    """Return in percent how many clean and noisy pairs each rule drops at 0.5."""
    images, texts, bad = pairs
    losses = pair_losses(images, texts, scale=scale, batch=batch, seed=seed)
    mismatched = mismatched_losses(images, texts, scale=scale, batch=batch, seed=seed)
    shares = []
    for noise in (noise_probability(losses, mismatched), by_two_gaussians(losses)):
        dropped = 100 * (noise > 0.5)
        shares += [float(dropped[~bad].mean()), float(dropped[bad].mean()) if bad.any() else float("nan")]
    return shares


def main() -> None:
    """Parse, measure, print mean and standard deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000, help="of the micro world")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noisy", type=float, nargs="+", default=[0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4])
    parser.add_argument("--features", type=Path, nargs="*", default=[])
    parser.add_argument("--batch", type=int, default=1024)
    options = parser.parse_args()
    sources: dict[str, tuple[Callable[[float, int], Pairs], float]] = {
        path.stem: (partial(genuine_pairs, path), 100.0) for path in options.features
    }
    if not sources:
        encoder = load_encoder("demo")
        sources["micro world"] = (partial(micro_pairs, encoder, options.pairs), encoder.scale)
    print(f"dropped at 0.5, %, {options.seeds} seeds: {'clean':>18}{'noisy':>14}{'clean, NLIP':>16}{'noisy, NLIP':>14}")
    for name, (pairs, scale) in sources.items():
        for noisy in options.noisy:
            runs = [measure(pairs(noisy, seed), scale, options.batch, seed) for seed in range(options.seeds)]
            cells = (
                f"{mean:6.1f} ± {spread:4.1f}" for mean, spread in zip(np.mean(runs, 0), np.std(runs, 0), strict=True)
            )
            print(f"{name:<32}{noisy:>5.0%}  " + " ".join(cells), flush=True)


if __name__ == "__main__":
    main()
