"""Rates on a GPU, in under eight minutes: classify against the bare encoder, captions, matching, refinement.

    python tests/benchmarks/gpu.py [--images 20000] [--out FILE.json]   ViT-B-32, ViT-L-14 and ViT-B-16-SigLIP
    python tests/benchmarks/gpu.py --quick                              a small shape, on any device: does it run

Models have random weights and images are drawn, since speed depends on neither. What `classify` reaches of the bare
encoder's rate on ready pixels is printed with its slowest stage. Each part runs while time is left (`--minutes`).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from classify import model_spec, prompts, take_images

from rag_clip.classifiers.match import match
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet
from rag_clip.models.open_clip import choose_device, load_encoder
from rag_clip.models.text_tower import causal_tower
from rag_clip.models.towers import TwoTowers, two_towers
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running
from rag_clip.progress import silent
from rag_clip.refinement.batch import images_to_refine, refine

MODELS = ("ViT-B-32", "ViT-L-14", "ViT-B-16-SigLIP")
PHOTOGRAPH = (500, 375)
WARM_UP, LEAST_SECONDS = 3, 3.0


def main() -> None:
    """Parse, measure what time allows, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = choose_device()
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found: dict[str, object] = {"device": place, "processors": os.cpu_count(), "torch": torch.__version__}
    print(f"{place}, {os.cpu_count()} processors, torch {torch.__version__}, batches of {options.batch}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for title, part in parts(options, Path(name), device):
            if time.monotonic() - started > 60 * options.minutes:
                print(f"{title}: left out, the time is over")
                continue
            before = time.monotonic()
            found[title] = part()
            print(f"{title} ({time.monotonic() - before:.0f} s)", flush=True)
            for line, value in found[title].items():  # type: ignore[attr-defined]
                print(
                    f"    {line:44} {value:,.3f}" if isinstance(value, float) else f"    {line:44} {value}", flush=True
                )
            if options.out:
                options.out.write_text(json.dumps(found, indent=1) + "\n")


def parts(
    options: argparse.Namespace, folder: Path, device: torch.device
) -> Iterator[tuple[str, Callable[[], dict[str, object]]]]:
    """Yield each measurement by its title."""
    rows = 600 if options.quick else options.images
    source = take_images(folder, rows, size=PHOTOGRAPH)
    for model in ("micro",) if options.quick else MODELS:
        yield f"{model}: images", partial(images, model, source, folder, options.batch)
        yield f"{model}: captions", partial(captions, model, folder, 2_000 if options.quick else 40_000)
    many, classes, width = (20_000, 100, 64) if options.quick else (1_000_000, 1000, 512)
    yield f"match {many:,} x {classes:,}, width {width}", lambda: matching(many, classes, width, device)
    yield f"refine {many:,} x {classes:,}, width {width}", lambda: refining(many, classes, width, device)


def images(model: str, source: Path, folder: Path, batch: int) -> dict[str, object]:
    """Return images/s of the bare encoder in its variants, and of classify, cold and from decoded images."""
    encoder = two_towers(load_encoder(model_spec(model, folder)))
    side = (encoder.preprocess.height, encoder.preprocess.width)
    pixels = torch.randint(0, 256, (batch, 3, *side), dtype=torch.uint8, device=encoder.device)
    bare = rate(lambda: encoder.encode_pixels(pixels), batch, encoder.device)
    compiled = None
    if encoder.device.type == "cuda":
        encoder.model.visual.compile()
        compiled = rate(lambda: encoder.encode_pixels(pixels), batch, encoder.device)
        encoder = two_towers(load_encoder(model_spec(model, folder)))
    start = time.perf_counter()
    summary = classify(
        source,
        prompts=prompts(),
        output=folder / "out.parquet",
        encoder=encoder,
        running=Running(batch_size=batch, report=silent, force=True),
    )
    seconds = time.perf_counter() - start
    through = summary.decoded / max(summary.seconds["encode"], summary.seconds["decode"], 1e-9)
    return {
        "precision": encoder.fingerprint.precision,
        "bare images/s": bare,
        "bare images/s, compiled": compiled,
        "classify images/s": summary.rows / seconds,
        "classify / bare": summary.rows / seconds / bare,
        "slowest stage alone, images/s": through,
        "bottleneck": summary.bottleneck,
        "seconds": ", ".join(f"{stage} {spent:.2f}" for stage, spent in summary.seconds.items()),
    }


def captions(model: str, folder: Path, count: int) -> dict[str, object]:
    """Return captions/s with and without sharing the beginnings of texts, and of the tokenizer alone."""
    encoder = two_towers(load_encoder(model_spec(model, folder)))
    texts = [f"a photo of a {row % 977} by the {row % 31} in a {row % 7} light" for row in range(count)]
    start = time.perf_counter()
    tokens = encoder.tokenizer(texts)
    tokenizing = count / (time.perf_counter() - start)
    whole = rate(lambda: encoder.encode_text(texts), count, encoder.device, warm_up=1)
    tower = causal_tower(encoder.model)
    with torch.no_grad():
        shared = rate(lambda: tower.encode(tokens), count, encoder.device, warm_up=1) if tower else None
        apart = rate(lambda: padded(encoder, tokens), count, encoder.device, warm_up=1)
    return {
        "captions/s": whole,
        "tokenizer alone, texts/s": tokenizing,
        "tower, shared beginnings, texts/s": shared,
        "tower, padded, texts/s": apart,
    }


def padded(encoder: TwoTowers, tokens: torch.Tensor) -> None:
    """Embed tokens in open_clip's own way."""
    for part in torch.split(tokens, 1024):
        encoder.model.encode_text(part.to(encoder.device))


def matching(count: int, classes: int, width: int, device: torch.device) -> dict[str, object]:
    """Return images/s of `match` on generated features."""
    classifier, features = generated(count, classes, width, device)
    return {"images/s": rate(lambda: match(classifier, features), count, device, warm_up=1)}


def refining(count: int, classes: int, width: int, device: torch.device) -> dict[str, object]:
    """Return seconds to fit the refinement on generated features, and images/s of what it gives."""
    classifier, features = generated(count, classes, width, device)
    start = time.perf_counter()
    sample = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: images_to_refine(classes)].to(device)
    refined = refine(classifier, Features(features.pooled[sample]), classifier.weights)
    wait(device)
    fitting = time.perf_counter() - start
    return {"fit, seconds": fitting, "images/s": rate(lambda: match(refined, features), count, device, warm_up=1)}


def generated(count: int, classes: int, width: int, device: torch.device) -> tuple[ZeroShot, Features]:
    """Return a classifier of random texts, and images around them."""
    draw = torch.Generator(device).manual_seed(0)
    weights = torch.nn.functional.normalize(torch.randn(classes, width, device=device, generator=draw), dim=1)
    noise = torch.randn(count, width, device=device, generator=draw)
    rows = weights[torch.arange(count, device=device) % classes] + 0.8 * noise / width**0.5
    labels = LabelSet(tuple(f"class {number}" for number in range(classes)))
    return ZeroShot(labels, weights, 100.0), Features(torch.nn.functional.normalize(rows, dim=1))


def rate(call: Callable[[], object], items: int, device: torch.device, *, warm_up: int = WARM_UP) -> float:
    """Return items/s of a call that is repeated for some seconds, after a warm-up."""
    for _ in range(warm_up):
        call()
    wait(device)
    start, times = time.perf_counter(), 0
    while times < 1 or time.perf_counter() - start < LEAST_SECONDS:
        call()
        times += 1
        if times % 8 == 0:
            wait(device)
    wait(device)
    return items * times / (time.perf_counter() - start)


def wait(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
