"""Decoding with torch's resizing and threads beside Pillow's resizing, which was ours before, and beside processes.

    python tests/benchmarks/decode.py IMAGES.parquet [--count 24] [--rounds 3] [--sides 300 500 1000 2400 4000]

The photographs are brought to each length of their longer side and saved as JPEGs again. First, decoding to 224 pixels
in one thread, processor time in turns: Pillow's resizing of JPEGs reduced to at least 1024 pixels, torch's resizing of
the same, and ours (reduced to at least 672 where their sides can be divided). Differences are to the first, in grey
levels, and as 1 - cosine of the features of a ViT-B/32 with random weights. Then images per second of the clock with
one and two workers, threads and processes, alone and with the encoder of the demo.
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import open_clip
import pyarrow.parquet as pq
import torch
from PIL import Image
from pillow_resize import Pillow
from timing import timed

from rag_clip.data import Features
from rag_clip.images.decoding import Decoding
from rag_clip.images.encoding import Piece, image_engine
from rag_clip.models.decode import decode_image
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.pixels import PixelTransform

OURS = PixelTransform(224, 224)
Make = Callable[[bytes], np.ndarray]


KINDS: dict[str, Make] = {
    "Pillow": lambda data: Pillow(224)(decode_image(data)),
    "torch": lambda data: OURS(decode_image(data)),
    "ours": lambda data: OURS(decode_image(data, least_side=OURS.least_side)),
}


def photographs(path: str, count: int, side: int) -> list[bytes]:
    """Return JPEGs with a longer side of `side` pixels; both sides are multiples of 8, as of most cameras."""
    images = pq.read_table(path)["image"].to_pylist()
    found = []
    for data in images[:: max(1, len(images) // count)][:count]:
        image = decode_image(data)
        size = [max(8, round(each * side / max(image.size) / 8) * 8) for each in image.size]
        stream = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def features(model: Any, pixels: Sequence[np.ndarray]) -> torch.Tensor:
    """Return unit features [n, d]."""
    values = (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.27
    with torch.no_grad():
        return torch.nn.functional.normalize(model.encode_image(values).double(), dim=-1)


def convert(make: Make, data: Sequence[bytes]) -> list[np.ndarray]:
    """Return the pixels of each image."""
    return [make(each) for each in data]


def compare(data: Sequence[bytes], rounds: int, model: Any) -> str:
    """Return milliseconds of each kind, how many times as fast it is as Pillow, and its differences."""
    spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, make in KINDS.items():
            spent[kind].append(timed(partial(convert, make, data))[1].processor / len(data) * 1000)
    reference = [KINDS["Pillow"](each) for each in data]
    lines = []
    for kind, make in KINDS.items():
        ratios = [before / now for before, now in zip(spent["Pillow"], spent[kind], strict=True)]
        pixels = [make(each) for each in data]
        levels = [np.abs(a.astype(int) - b) for a, b in zip(pixels, reference, strict=True)]
        apart = 1 - (features(model, pixels) * features(model, reference)).sum(1)
        lines.append(
            f"  {kind}: {statistics.median(spent[kind]):.2f} ms, {statistics.median(ratios):.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f}); levels at most {max(each.max() for each in levels)}, mean "
            f"{np.mean([each.mean() for each in levels]):.4f}; 1 - cosine at most {apart.max():.1e}"
        )
    return "\n".join(lines)


class Blank:
    """Encodes nothing."""

    dim, device = 1, torch.device("cpu")

    def encode_pixels(self, pixels: torch.Tensor) -> Features:
        """Return zeros [n, 1]."""
        return Features(torch.zeros(len(pixels), 1))


def rates(data: Sequence[bytes], rounds: int) -> str:
    """Return images per second of the clock with workers: decoded to 224 pixels alone, and decoded and encoded."""
    demo = load_encoder("demo", device="cpu")
    pieces = [Piece[None](data[start : start + 32]) for start in range(0, len(data), 32)]
    lines = []
    for what, encoder, side in (("decode", Blank(), 224), ("decode and encode", demo, demo.preprocess.height)):
        ways: dict[str, Any] = {"threads": PixelTransform(side, side), "processes, Pillow": Pillow(side)}
        for workers in (0, 1, 2):
            found: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, views in ways.items():
                    found[way].append(len(data) / timed(partial(run, encoder, workers, views, pieces))[1].wall)
            for way, values in found.items():
                spread = f"{statistics.median(values):.0f} images/s ({min(values):.0f} to {max(values):.0f})"
                lines.append(f"  {what}, {workers} workers, {way}: {spread}")
    return "\n".join(lines)


def run(encoder: Any, workers: int, views: Any, pieces: Sequence[Piece[None]]) -> None:
    """Decode and encode all pieces."""
    with image_engine(encoder, Decoding(workers), views=views) as engine:
        assert all(each.errors == (None,) * len(each.errors) for each in engine.encode(pieces))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="+", default=[300, 500, 1000, 2400, 4000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", load_weights=False).eval()
    for side in options.sides:
        data = photographs(options.images, options.count, side)
        print(f"{side} pixels:\n{compare(data, options.rounds, model)}", flush=True)
    print(f"500 pixels, with workers:\n{rates(photographs(options.images, 20 * options.count, 500), options.rounds)}")


if __name__ == "__main__":
    main()
