"""Texts encoded, and seconds, of enhance and classify on the micro world, with and without the vectors beside prompts.

    python tests/benchmarks/text_vectors.py FOLDER [--limit 200] [--rounds 3]

FOLDER/captions is the index of the bundled corpus; it is built if it is not there. Each round enhances the label set,
classifies, deletes the vectors, and classifies again, in this process; loading the encoder is not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
import torch
from timing import Spent, timed

from rag_clip.images.opening import Images
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.enhance import enhance_labels
from rag_clip.pipelines.running import Running
from rag_clip.progress import silent
from rag_clip.protocols import Encoder

ASSETS = Path(str(files("rag_clip.demo"))) / "assets"
QUIET = Running(0, report=silent)


class Counted:
    """An encoder that counts the texts it encodes."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.texts = encoder, 0

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Embed texts, and count them."""
        self.texts += len(texts)
        return self.encoder.encode_text(texts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)


def main() -> None:
    """Build the index where it is missing, then print a line for each job of each round, and how the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=200, help="images to classify")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder: Path = options.folder
    encoder = Counted(load_encoder("demo", device="cpu"))
    build_index([str(ASSETS / "corpus.parquet")], index=folder / "captions", encoder=encoder, running=QUIET)
    prompts, images = folder / "prompts.parquet", Images(ASSETS / "test.parquet", limit=options.limit)

    def classified(name: str) -> Callable[[], object]:
        return lambda: classify(images, prompts=prompts, output=folder / name, encoder=encoder, running=QUIET)

    for _ in range(options.rounds):
        show(
            "enhance",
            encoder,
            lambda: enhance_labels(
                ASSETS / "labels.json", output=prompts, encoder=encoder, index=folder / "captions", running=QUIET
            ),
        )
        show("classify, vectors kept", encoder, classified("kept.parquet"))
        prompts.with_name("prompts.parquet.vectors").unlink()
        show("classify, all encoded", encoder, classified("anew.parquet"))
    kept, anew = (pl.read_parquet(folder / name) for name in ("kept.parquet", "anew.parquet"))
    same = (kept["predicted_label"] == anew["predicted_label"]).sum()
    widest = (kept["predicted_score"] - anew["predicted_score"]).abs().to_numpy().max()
    print(f"{same} of {len(kept)} labels equal; scores differ by at most {widest:.1e}")


def show(job: str, encoder: Counted, call: Callable[[], object]) -> None:
    """Time a job, and print the texts it encoded."""
    encoder.texts = 0
    spent: Spent = timed(call)[1]
    print(f"{job:24}{encoder.texts:8} texts  {spent.processor:6.2f} s processor  {spent.wall:6.2f} s wall", flush=True)


if __name__ == "__main__":
    main()
