"""Refinement beside published methods in eight kinds of batches: `python tests/benchmarks/regimes.py FOLDER`.

FOLDER has genuine features, whurs19_*.npz, of which `--models` are read. Prints for each method and kind of batch the
change in top-1 over zero-shot in points, the mean over `--draws` batches ± their standard deviation, and in brackets
the share of batches that got worse; then the calibration error on all images. Text is the ensemble of 106 templates.

The others are written from the equations of their papers, not taken from their code. With unit images x [n, d], unit
texts T [c, d], s = 100 and y = softmax(s x T):

    Sinkhorn   InMaP's assignment (Qian et al., 2023, arXiv 2310.19752): exp(s x T) scaled to rows of one and columns of
               n / c, twenty times
    TransCLIP  (Zanella et al., 2024, arXiv 2406.01837): z ~ y exp(log N(x | m_k, v) + sum_j w_ij z_j), five times a
               round; m and the shared diagonal v by z, ten rounds; w of the three nearest images; v starts at 1 / d
    StatA      (Zanella et al., 2025, arXiv 2501.03729): the same with a v of each class; m and v are drawn to T and
               1 / d as by one image of each class

Where several readings were possible (m of TransCLIP starts at the means by y, v of StatA is drawn to 1 / d), the one
that does best here was taken.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from inputs.regimes import REGIMES, drawn
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet
from rag_clip.metrics.calibration import calibration_error
from rag_clip.refinement.batch import refine

MODELS = ("CLIP_ViTB32", "CLIP_ViTL14", "GeoRSCLIP_ViTL14", "RemoteCLIP_ViTB32")
SCALE = 100.0
ROUNDS, INNER, NEAREST, BALANCED = 10, 5, 3, 20
Method = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of images and texts, to logits [n, c]


def refined(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return our logits."""
    zero_shot = ZeroShot(LabelSet(tuple(map(str, range(len(texts))))), texts, SCALE)
    return refine(zero_shot, Features(images), texts)(Features(images))


def sinkhorn(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of the balanced assignment."""
    plan = (SCALE * images @ texts.T).log_softmax(1)
    for _ in range(BALANCED):
        plan = (plan - plan.logsumexp(0, keepdim=True)).log_softmax(1)
    return plan


def transclip(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of TransCLIP's assignment."""
    text = (SCALE * images @ texts.T).log_softmax(1)
    near, shares = neighbours(images), text.exp()
    means, variance = shares.T @ images / shares.sum(0)[:, None], torch.full_like(images[0], 1 / images.shape[1])
    for _ in range(ROUNDS):
        shares = assigned(text, log_density(images, means, variance.expand_as(means)), near, shares)
        means = shares.T @ images / shares.sum(0).clamp(min=1e-12)[:, None]
        squares = shares.sum(1) @ images**2 - 2 * (means * (shares.T @ images)).sum(0) + shares.sum(0) @ means**2
        variance = (squares / len(images)).clamp(min=1e-12)
    return shares.clamp(min=1e-30).log()


def stata(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of StatA's assignment."""
    text = (SCALE * images @ texts.T).log_softmax(1)
    near, shares = neighbours(images), text.exp()
    anchor = torch.full_like(images[0], 1 / images.shape[1])
    means, variances = texts, anchor.expand_as(texts)
    for _ in range(ROUNDS):
        shares = assigned(text, log_density(images, means, variances), near, shares)
        number = shares.sum(0)[:, None]  # [c, 1]
        sums, squares = shares.T @ images, shares.T @ images**2
        drawn_to = number / (1 + number)
        means = drawn_to * sums / number.clamp(min=1e-12) + (1 - drawn_to) * texts
        own = (squares - 2 * means * sums) / number.clamp(min=1e-12) + means**2
        variances = drawn_to * own + (1 - drawn_to) * (anchor + (texts - means) ** 2)
        variances = variances.clamp(min=1e-12)
    return shares.clamp(min=1e-30).log()


def neighbours(images: torch.Tensor) -> torch.Tensor:
    """Return w [n, n], the cosine of each image with its three nearest others, 0 elsewhere."""
    cosines = (images @ images.T).fill_diagonal_(-1).clamp(min=0)
    kept = cosines.topk(min(NEAREST, len(images) - 1), dim=1)
    return torch.zeros_like(cosines).scatter_(1, kept.indices, kept.values)


def log_density(images: torch.Tensor, means: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
    """Return log N(x | m_k, v_k) [n, c], without its constant."""
    quadratic = images**2 @ (1 / variances).T - 2 * images @ (means / variances).T + (means**2 / variances).sum(1)
    return -0.5 * (quadratic + variances.log().sum(1))


def assigned(text: torch.Tensor, density: torch.Tensor, near: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Return z after five updates."""
    for _ in range(INNER):
        shares = (text + density + near @ shares).softmax(1)
    return shares


METHODS: dict[str, Method] = {"Sinkhorn": sinkhorn, "TransCLIP": transclip, "StatA": stata, "ours": refined}


def main() -> None:
    """Print a row for each model and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--draws", type=int, default=12)
    options = parser.parse_args()
    for model in options.models:
        data = np.load(options.folder / f"whurs19_{model}.npz")
        images, texts = (
            torch.nn.functional.normalize(torch.from_numpy(rows.astype(np.float64)), dim=1)
            for rows in (data["image"], data["text"][-1])
        )
        labels, logits = torch.from_numpy(data["label"]), SCALE * images @ texts.T
        alone = (logits.argmax(1) == labels).double()
        print(f"{model}: {100 * alone.mean():.1f}, calibration error {100 * calibration_error(logits, labels):.1f}")
        print(f"| method | {' | '.join(REGIMES)} | calibration error |")
        for name, method in METHODS.items():
            cells = []
            for regime in REGIMES:
                gains = []
                for rows in drawn(labels, regime, options.draws):
                    right = (method(images[rows], texts).argmax(1) == labels[rows]).double()
                    gains.append(100 * float(right.mean() - alone[rows].mean()))
                worse = 100 * np.mean([gain < -1e-9 for gain in gains])
                spread = f" ± {np.std(gains, ddof=1):.1f} ({worse:.0f})" if len(gains) > 1 else ""
                cells.append(f"{np.mean(gains):+.1f}{spread}")
            error = 100 * calibration_error(method(images, texts), labels)
            print(f"| {name} | {' | '.join(cells)} | {error:.1f} |", flush=True)


if __name__ == "__main__":
    main()
