"""Train the bundled CLIP from scratch: `python -m rag_clip.demo.train [--out DIR] [--steps N]`.

The contrastive objective of CLIP (Radford et al., 2021, arXiv 2103.00020) on (photograph, caption) pairs: one half are
named concepts, sampled by frequency, the other half designs without a name. Concepts of the unseen band are never shown
and never named. The log is written beside the model. A killed training resumes where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, interpolate

from rag_clip.demo.bpe import learn_merges, write_merges
from rag_clip.demo.captions import KINDS, anonymous_caption, caption, noise_caption
from rag_clip.demo.concepts import Concept, concepts
from rag_clip.demo.designs import FAMILIES, Design, sample_design
from rag_clip.demo.draw import draw_design
from rag_clip.demo.photograph import photograph
from rag_clip.demo.train_log import note, unfinished
from rag_clip.progress import Report, silent
from rag_clip.training import loop
from rag_clip.training.checkpoint import Checkpoint

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 48, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
        "text_cfg": {"context_length": 28, "vocab_size": 0, "width": 128, "heads": 4, "layers": 3},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"},
}
SEED, BATCH, STEPS, PEAK_RATE, WARM_UP, MERGES, ANONYMOUS = 20261122, 256, 900, 2e-3, 60, 700, 8000
KIND_SHARES = (0.35, 0.25, 0.4)  # of name, description, both
NOISE_SHARE = 0.03
SCHEDULE = loop.Schedule(
    rate=PEAK_RATE,
    weight_decay=0.1,
    epsilon=1e-6,
    warm_up=WARM_UP,
    warm_up_rate=None,
    betas=(0.9, 0.98),
    decayed="matrices",
    clip=1.0,
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Training data: named concepts with their textures and sampling probabilities, and designs without a name.

    `batch` is the number of pairs per step.
    """

    named: tuple[Concept, ...]
    anonymous: tuple[Design, ...]
    anonymous_textures: torch.Tensor
    textures: torch.Tensor
    shares: np.ndarray
    batch: int = BATCH


def nameless_designs() -> tuple[Design, ...]:
    """Return random designs of every family, without those of concepts; some come twice."""
    draw = np.random.default_rng([SEED, 1])
    known = {concept.design for concept in concepts()}
    families = list(FAMILIES)
    sampled = (sample_design(families[k % len(families)], draw) for k in range(ANONYMOUS))
    return tuple(design for design in sampled if design not in known)


def make_pairs(
    named: Sequence[Concept] | None = None, nameless: Sequence[Design] | None = None, *, batch: int = BATCH
) -> Pairs:
    """Return training data; `named` defaults to all concepts, `nameless` to `nameless_designs()`."""
    named = concepts() if named is None else tuple(named)
    anonymous = nameless_designs() if nameless is None else tuple(nameless)
    shares = np.array([concept.frequency for concept in named])
    drawn = textures(anonymous), textures([concept.design for concept in named])
    return Pairs(named, anonymous, *drawn, shares / shares.sum(), batch)


def textures(designs: list[Design] | tuple[Design, ...]) -> torch.Tensor:
    """Return the textures of designs, uint8 [n, 4, t, t]."""
    drawn = np.stack([draw_design(design) for design in designs])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()


def draw_pairs(pairs: Pairs, step: int) -> tuple[torch.Tensor, list[str], int]:
    """Return the textures [b, 4, t, t] and captions of a step, and the seed of their photographs."""
    draw = np.random.default_rng([SEED, 2, step])
    named = draw.choice(len(pairs.shares), size=pairs.batch // 2, p=pairs.shares)
    nameless = draw.integers(len(pairs.anonymous), size=pairs.batch - len(named))
    kinds = draw.choice(KINDS, size=len(named), p=KIND_SHARES)
    captions = [caption(pairs.named[row], str(kind), draw) for row, kind in zip(named, kinds, strict=True)]
    captions += [anonymous_caption(pairs.anonymous[row], draw) for row in nameless]
    captions = [noise_caption(draw)[0] if draw.random() < NOISE_SHARE else text for text in captions]
    chosen = torch.cat([pairs.textures[named], pairs.anonymous_textures[nameless]])
    return chosen, captions, int(draw.integers(2**62))


def draw_batch(pairs: Pairs, step: int) -> tuple[torch.Tensor, list[str]]:
    """Return photographs uint8 [b, 3, 64, 64] and their captions; they depend on the step only."""
    chosen, captions, seed = draw_pairs(pairs, step)
    return photograph(chosen, seed=seed), captions


def batches(pairs: Pairs, first: int) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Yield the batches from step `first` on; the next one is prepared in a thread while this one trains."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(draw_batch, pairs, first)
        for step in count(first):
            ready, ahead = ahead, pool.submit(draw_batch, pairs, step + 1)
            yield ready.result()


def to_input(photographs: torch.Tensor) -> torch.Tensor:
    """Resize and normalise photographs [n, 3, height, width] as in the model's preprocessing."""
    size = CONFIG["model_cfg"]["vision_cfg"]["image_size"]
    resized = interpolate(photographs.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return (resized.clamp(0, 255) / 255 - 0.5) / 0.25


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the symmetric cross-entropy over the scaled cosine similarities of a batch, from unit rows [n, d]."""
    logits = scale * image @ text.T  # [n, n]
    truth = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, truth) + cross_entropy(logits.T, truth)) / 2


@torch.inference_mode()
def accuracy_by_band(model: Any, tokenizer: SimpleTokenizer, pairs: Pairs, device: torch.device) -> dict[str, float]:
    """Return zero-shot accuracy per band, by names only, on validation photographs (two per concept, own seed)."""
    model.eval()
    photographs = photograph(pairs.textures.repeat(2, 1, 1, 1), seed=SEED + 1)
    names = tokenizer([f"a photo of {concept.name}" for concept in pairs.named]).to(device)
    classes = model.encode_text(names, normalize=True)  # [c, d]
    parts = [to_input(part.to(device)) for part in torch.split(photographs, 256)]
    images = torch.cat([model.encode_image(part, normalize=True) for part in parts])
    right = ((images @ classes.T).argmax(1).cpu() == torch.arange(len(pairs.named)).repeat(2)).float()
    bands = np.array([concept.band for concept in pairs.named] * 2)
    model.train()
    return {band: round(float(right[torch.from_numpy(bands == band)].mean()), 4) for band in ("head", "tail", "unseen")}


def train(
    out: Path,
    *,
    steps: int = STEPS,
    every: int = 50,
    device: torch.device,
    pairs: Pairs | None = None,
    report: Report = silent,
) -> None:
    """Train and write open_clip_config.json, bpe.txt.gz, open_clip_model.safetensors and train.log to `out`.

    out: the folder.
    steps: length of the training.
    every: steps between log lines and checkpoints.
    device: to train on.
    pairs: training data, by default `make_pairs()`.
    report: receives progress events.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    pairs = pairs or make_pairs()
    sample = [text for step in range(40) for text in draw_pairs(pairs, 10_000_000 + step)[1]]
    write_merges(learn_merges(sample, count=MERGES), out / "bpe.txt.gz")
    config = copy.deepcopy(CONFIG)
    text = config["model_cfg"]["text_cfg"]
    tokenizer = SimpleTokenizer(str(out / "bpe.txt.gz"), context_length=text["context_length"])
    text["vocab_size"] = tokenizer.vocab_size
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    model = open_clip.CLIP(**config["model_cfg"]).to(device)
    checkpoint = unfinished(out, every=every)
    _run(model, tokenizer, pairs, steps=steps, checkpoint=checkpoint, report=report)
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, out / "open_clip_model.safetensors")
    checkpoint.path.unlink()


def _run(
    model: Any, tokenizer: SimpleTokenizer, pairs: Pairs, *, steps: int, checkpoint: Checkpoint, report: Report
) -> None:
    out, device = checkpoint.path.parent, model.logit_scale.device
    if not checkpoint.path.exists():
        parameters = sum(p.numel() for p in model.parameters())
        note(
            out,
            {"parameters": parameters, "steps": steps, "batch": pairs.batch, "seed": SEED, "torch": torch.__version__},
        )
    start = time.perf_counter()

    def loss(batch: tuple[torch.Tensor, list[str]]) -> torch.Tensor:
        photographs, captions = batch
        image = model.encode_image(to_input(photographs.to(device)), normalize=True)
        text = model.encode_text(tokenizer(captions).to(device), normalize=True)
        return contrastive_loss(image, text, model.logit_scale.exp())

    @torch.no_grad()
    def after(step: loop.Step) -> None:
        model.logit_scale.clamp_(0, math.log(100))
        if step.number % checkpoint.every == 0 or step.number == steps:
            bands = accuracy_by_band(model, tokenizer, pairs, device)
            facts = {
                "step": step.number,
                "loss": round(step.loss, 4),
                "scale": round(model.logit_scale.exp().item(), 2),
            }
            note(out, {**facts, **bands, "seconds": round(time.perf_counter() - start, 1)})

    loop.train(
        list(model.parameters()),
        loss,
        lambda first: batches(pairs, first),
        schedule=replace(SCHEDULE, steps=steps, seed=SEED),
        checkpoint=checkpoint,
        after=after,
        report=report,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets" / "model")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    train(chosen.out, steps=chosen.steps, device=torch.device(chosen.device))
