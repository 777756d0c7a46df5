"""Train the bundled CLIP from scratch: `python -m rag_clip.demo.train [--out DIR] [--steps N]`.

The plain contrastive objective of CLIP (Radford et al., 2021, arXiv 2103.00020) on (photograph, caption) pairs: half of
them named concepts, drawn by how often they are talked about, half designs without a name. Concepts of the unseen band
are never shown and never named. The log goes beside the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, interpolate

from rag_clip.demo.bpe import learn_merges, write_merges
from rag_clip.demo.captions import KINDS, anonymous_caption, caption, noise_caption
from rag_clip.demo.concepts import concepts
from rag_clip.demo.designs import FAMILIES, Design, sample_design
from rag_clip.demo.draw import draw_design
from rag_clip.demo.photograph import photograph

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


@dataclass(frozen=True, slots=True)
class Pairs:
    """What training draws from: designs with their textures, and the share of each named concept."""

    anonymous: tuple[Design, ...]
    anonymous_textures: torch.Tensor
    textures: torch.Tensor
    shares: np.ndarray


def nameless_designs() -> tuple[Design, ...]:
    """Sample designs of every family, none of which is a concept's; some come twice."""
    draw = np.random.default_rng([SEED, 1])
    known = {concept.design for concept in concepts()}
    families = list(FAMILIES)
    sampled = (sample_design(families[k % len(families)], draw) for k in range(ANONYMOUS))
    return tuple(design for design in sampled if design not in known)


def make_pairs() -> Pairs:
    """Draw the named designs and a pool of nameless ones."""
    anonymous = nameless_designs()
    shares = np.array([concept.frequency for concept in concepts()])
    return Pairs(anonymous, textures(anonymous), textures([c.design for c in concepts()]), shares / shares.sum())


def textures(designs: list[Design] | tuple[Design, ...]) -> torch.Tensor:
    """Return the textures of designs, uint8 [n, 4, t, t]."""
    drawn = np.stack([draw_design(design) for design in designs])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()


def draw_pairs(pairs: Pairs, step: int) -> tuple[torch.Tensor, list[str], int]:
    """Return the textures [BATCH, 4, t, t] and captions of a step, and the seed to photograph it with."""
    draw = np.random.default_rng([SEED, 2, step])
    named = draw.choice(len(pairs.shares), size=BATCH // 2, p=pairs.shares)
    nameless = draw.integers(len(pairs.anonymous), size=BATCH - len(named))
    kinds = draw.choice(KINDS, size=len(named), p=KIND_SHARES)
    captions = [caption(concepts()[row], str(kind), draw) for row, kind in zip(named, kinds, strict=True)]
    captions += [anonymous_caption(pairs.anonymous[row], draw) for row in nameless]
    captions = [noise_caption(draw)[0] if draw.random() < NOISE_SHARE else text for text in captions]
    chosen = torch.cat([pairs.textures[named], pairs.anonymous_textures[nameless]])
    return chosen, captions, int(draw.integers(2**62))


def draw_batch(pairs: Pairs, step: int) -> tuple[torch.Tensor, list[str]]:
    """Return photographs uint8 [BATCH, 3, 64, 64] and their captions; a function of the step alone."""
    chosen, captions, seed = draw_pairs(pairs, step)
    return photograph(chosen, seed=seed), captions


def batches(pairs: Pairs, steps: int) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Yield every step's batch, the next one drawn while this one trains."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(draw_batch, pairs, 0)
        for step in range(steps):
            ready, ahead = ahead, pool.submit(draw_batch, pairs, step + 1)
            yield ready.result()


def to_input(photographs: torch.Tensor) -> torch.Tensor:
    """Resize and normalise photographs as the model's own preprocessing does."""
    size = CONFIG["model_cfg"]["vision_cfg"]["image_size"]
    resized = interpolate(photographs.float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return (resized.clamp(0, 255) / 255 - 0.5) / 0.25


def rate_at(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the symmetric cross-entropy over the batch's cosine similarities [n, n]."""
    logits = scale * image @ text.T
    truth = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, truth) + cross_entropy(logits.T, truth)) / 2


@torch.inference_mode()
def accuracy_by_band(model: Any, tokenizer: SimpleTokenizer, pairs: Pairs, device: torch.device) -> dict[str, float]:
    """Top-1 by name alone on validation photographs (two per concept, their own seed), per band."""
    model.eval()
    photographs = photograph(pairs.textures.repeat(2, 1, 1, 1), seed=SEED + 1)
    names = tokenizer([f"a photo of {concept.name}" for concept in concepts()]).to(device)
    classes = model.encode_text(names, normalize=True)
    parts = [to_input(part.to(device)) for part in torch.split(photographs, 256)]
    images = torch.cat([model.encode_image(part, normalize=True) for part in parts])
    right = ((images @ classes.T).argmax(1).cpu() == torch.arange(len(concepts())).repeat(2)).float()
    bands = np.array([concept.band for concept in concepts()] * 2)
    model.train()
    return {band: round(float(right[torch.from_numpy(bands == band)].mean()), 4) for band in ("head", "tail", "unseen")}


def train(out: Path, *, steps: int = STEPS, device: torch.device) -> None:
    """Train and write open_clip_config.json, bpe.txt.gz, open_clip_model.safetensors and train.log to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    pairs = make_pairs()
    sample = [text for step in range(40) for text in draw_pairs(pairs, 10_000_000 + step)[1]]
    write_merges(learn_merges(sample, count=MERGES), out / "bpe.txt.gz")
    config = copy.deepcopy(CONFIG)
    text = config["model_cfg"]["text_cfg"]
    tokenizer = SimpleTokenizer(str(out / "bpe.txt.gz"), context_length=text["context_length"])
    text["vocab_size"] = tokenizer.vocab_size
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    model = open_clip.CLIP(**config["model_cfg"]).to(device)
    with (out / "train.log").open("w") as log:
        _run(model, tokenizer, pairs, steps=steps, device=device, log=log)
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, out / "open_clip_model.safetensors")


def _run(
    model: Any, tokenizer: SimpleTokenizer, pairs: Pairs, *, steps: int, device: torch.device, log: TextIO
) -> None:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    other = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), eps=1e-6)
    parameters = sum(p.numel() for p in model.parameters())
    _note(log, {"parameters": parameters, "steps": steps, "batch": BATCH, "seed": SEED, "torch": torch.__version__})
    start = time.perf_counter()
    for step, (photographs, captions) in enumerate(batches(pairs, steps)):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, steps)
        image = model.encode_image(to_input(photographs.to(device)), normalize=True)
        text = model.encode_text(tokenizer(captions).to(device), normalize=True)
        loss = contrastive_loss(image, text, model.logit_scale.exp())
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if (step + 1) % 50 == 0 or step + 1 == steps:
            bands = accuracy_by_band(model, tokenizer, pairs, device)
            seconds = round(time.perf_counter() - start, 1)
            scale = round(model.logit_scale.exp().item(), 2)
            _note(log, {"step": step + 1, "loss": round(loss.item(), 4), "scale": scale, **bands, "seconds": seconds})


def _note(log: TextIO, facts: dict[str, object]) -> None:
    log.write(json.dumps(facts) + "\n")
    log.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets" / "model")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    train(chosen.out, steps=chosen.steps, device=torch.device(chosen.device))
