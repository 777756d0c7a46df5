"""How well NLIP's noise probability finds wrong captions on the micro world, where the truth is known.

    python tests/benchmarks/noise.py [--pairs 1000] [--seeds 3] [--noisy 0.2] [--batch 1024]

Pairs are new photographs of concepts, drawn as often as they are talked about, with captions of the kinds of the
corpus; a share of them is noisy, in equal parts: the caption of another concept (wrong), boilerplate, foreign, and an
ordinary word's. The encoder is the bundled one. ROC-AUC compares each kind with the clean pairs; a tie counts half.
"""

import argparse

import numpy as np
import torch
from PIL import Image

from rag_clip.corpus.noise import noise_probability, pair_losses
from rag_clip.demo.captions import KINDS, caption, noise_caption
from rag_clip.demo.concepts import concepts
from rag_clip.demo.draw import draw_design
from rag_clip.demo.photograph import photograph
from rag_clip.encoder import load_encoder
from rag_clip.protocols import Encoder

UNSEEN_BY_TRAINING = 2**62  # training draws the seeds of its photographs below
NOISES = ("wrong", "boilerplate", "foreign", "ordinary")
KIND_SHARES = (0.35, 0.25, 0.4)


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


def losses_of(encoder: Encoder, rows: np.ndarray, captions: list[str], *, seed: int, batch: int) -> np.ndarray:
    """Photograph the concepts, embed both sides, and return the loss of each pair [n]."""
    textures = torch.from_numpy(np.stack([draw_design(concept.design) for concept in concepts()])).permute(0, 3, 1, 2)
    features = []
    for start in range(0, len(rows), 256):
        part = textures[torch.from_numpy(rows[start : start + 256])]
        pixels = photograph(part, seed=UNSEEN_BY_TRAINING + 1000 * (seed + 1) + start).permute(0, 2, 3, 1).numpy()
        features.append(encoder.encode_images([Image.fromarray(image) for image in pixels]).pooled)
    return pair_losses(torch.cat(features), encoder.encode_text(captions), scale=encoder.scale, batch=batch, seed=seed)


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the ROC-AUC: how often a positive outranks a negative."""
    order, ranks = np.unique(scores, return_inverse=True)
    counts = np.bincount(ranks, minlength=len(order))
    middle = (np.cumsum(counts) - (counts - 1) / 2)[ranks]
    ones, zeros = positive.sum(), (~positive).sum()
    return float((middle[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def measure(encoder: Encoder, pairs: int, noisy: float, seed: int, batch: int) -> dict[str, float]:
    """Return the AUC per kind and over all, and how the rule `noise > 0.5` does."""
    rows, captions, truth = draw_pairs(pairs, noisy, seed)
    losses = losses_of(encoder, rows, captions, seed=seed, batch=batch)
    noise, dirty = noise_probability(losses), truth != "clean"
    found = {"all, by loss": area_under_curve(losses, dirty), "all": area_under_curve(noise, dirty)}
    for kind in NOISES:
        some = (truth == kind) | ~dirty
        found[kind] = area_under_curve(noise[some], dirty[some])
    flagged = noise > 0.5
    found["precision at 0.5"] = float(dirty[flagged].mean()) if flagged.any() else float("nan")
    found["recall at 0.5"] = float(flagged[dirty].mean())
    return found


def main() -> None:
    """Parse, measure, print mean and standard deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noisy", type=float, default=0.2, help="share of noisy pairs")
    parser.add_argument("--batch", type=int, default=1024)
    options = parser.parse_args()
    encoder = load_encoder("demo")
    runs = [measure(encoder, options.pairs, options.noisy, seed, options.batch) for seed in range(options.seeds)]
    print(f"{options.pairs} pairs, {options.noisy:.0%} noisy, {options.seeds} seeds, batches of {options.batch}")
    for name in runs[0]:
        values = np.array([run[name] for run in runs])
        print(f"{name:<18}{values.mean():.3f} ± {values.std():.3f}")


if __name__ == "__main__":
    main()
