"""Captions per second of encode_text against open_clip's plain loop: one model, one process, alternating rounds.

    python tests/benchmarks/text_encoding.py CAPTIONS.parquet [--limit 512] [--batch 256] [--rounds 3]

ViT-B-32 with random weights. The plain loop encodes all 77 positions of each caption. Seconds are wall clock and CPU
time (all threads): on a busy machine the CPU ratio is the steadier of the two.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import open_clip
import polars
import torch

from rag_clip.data import Fingerprint
from rag_clip.pixels import PixelTransform
from rag_clip.towers import TwoTowers


def random_encoder(name: str) -> TwoTowers:
    """Wrap an untrained built-in model; vectors mean nothing, seconds do."""
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained_text=False).eval().requires_grad_(False)
    return TwoTowers(
        name=name,
        model=model,
        tokenizer=open_clip.get_tokenizer(name),
        fingerprint=Fingerprint(model=name, pretrained="", weights="random", preprocessing=""),
        device=torch.device("cpu"),
        dim=open_clip.get_model_config(name)["embed_dim"],
        scale=1.0,
        bias=0.0,
        preprocess=PixelTransform(224, 224),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


@torch.inference_mode()
def plain(encoder: TwoTowers, texts: list[str], batch: int) -> torch.Tensor:
    """Encode as open_clip's users do: in the order given, at the whole context."""
    starts = range(0, len(texts), batch)
    return torch.cat(
        [encoder.model.encode_text(encoder.tokenizer(texts[start : start + batch]), normalize=True) for start in starts]
    )


def timed(encode: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float, float]:
    """Return the rows, wall seconds and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows = encode()
    return rows, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Parse, alternate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", help="Parquet file with a text column")
    parser.add_argument("--column", default="caption")
    parser.add_argument("--limit", type=int, help="captions to take, spread evenly over the file")
    parser.add_argument("--batch", type=int, default=256, help="rows per batch of the plain loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="ViT-B-32")
    options = parser.parse_args()

    texts = polars.read_parquet(options.captions, columns=[options.column]).to_series().drop_nulls().to_list()
    texts = texts[:: max(1, len(texts) // (options.limit or len(texts)))][: options.limit]
    encoder = random_encoder(options.model)
    lengths = encoder.tokenizer(texts).argmax(1) + 1
    print(f"{len(texts)} captions, mean {lengths.float().mean():.1f} tokens, {torch.get_num_threads()} threads")
    for warm in (lambda: plain(encoder, texts[:8], 8), lambda: encoder.encode_text(texts[:8])):
        warm()

    ratios = []
    for _ in range(options.rounds):
        slow, slow_wall, slow_cpu = timed(lambda: plain(encoder, texts, options.batch))
        fast, fast_wall, fast_cpu = timed(lambda: encoder.encode_text(texts))
        ratios.append((slow_wall / fast_wall, slow_cpu / fast_cpu))
        print(
            f"plain {len(texts) / slow_wall:.1f}/s, ours {len(texts) / fast_wall:.1f}/s, "
            f"ratio {ratios[-1][0]:.2f} by wall clock, {ratios[-1][1]:.2f} by CPU time"
        )
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratio {wall:.2f} by wall clock, {cpu:.2f} by CPU time")
    print(f"largest cosine difference {(1 - (slow * fast).sum(1)).abs().max():.1e}")


if __name__ == "__main__":
    main()
