"""Captions per second of encode_text against open_clip's plain loop: one model, one process, alternating rounds.

    python tests/benchmarks/text_encoding.py CAPTIONS.parquet [--limit 512] [--batch 256] [--rounds 3]
        [--cut]

ViT-B-32 with random weights. The plain loop encodes all 77 positions of each caption; with --cut it is our tower, which
cuts the padding, but computes beginnings that captions share for each caption. Seconds are wall clock and CPU
time (all threads): on a busy machine the CPU ratio is the steadier of the two.
"""

import argparse
import logging
import statistics
from functools import partial

import open_clip
import polars
import torch
from timing import alternate

from rag_clip.data import Fingerprint
from rag_clip.models.pixels import PixelTransform
from rag_clip.models.text_tower import causal_tower
from rag_clip.models.towers import TwoTowers


def random_encoder(name: str) -> TwoTowers:
    """Wrap an untrained built-in model; vectors mean nothing, seconds do."""
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # the random weights that open_clip warns of are wanted here
    model = open_clip.create_model(name, pretrained_text=False).eval().requires_grad_(False)
    logging.disable(logging.NOTSET)
    return TwoTowers(
        name=name,
        model=model,
        tokenizer=open_clip.get_tokenizer(name),
        fingerprint=Fingerprint(model=name, pretrained="", weights="random", preprocessing=""),
        device=torch.device("cpu"),
        dim=open_clip.get_model_config(name)["embed_dim"],
        scale=1.0,
        bias=0.0,
        trained_bias=False,
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


def cut(encoder: TwoTowers, texts: list[str]) -> torch.Tensor:
    """Encode at the true lengths, as with gradients, which share no beginnings; frozen weights need none."""
    tower = causal_tower(encoder.model)
    assert tower is not None
    with torch.enable_grad():
        return torch.nn.functional.normalize(tower.encode(encoder.tokenizer(texts)), dim=-1)


def main() -> None:
    """Parse, alternate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", help="Parquet file with a text column")
    parser.add_argument("--column", default="caption")
    parser.add_argument("--limit", type=int, help="captions to take, spread evenly over the file")
    parser.add_argument("--batch", type=int, default=256, help="rows per batch of the plain loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--cut", action="store_true", help="compare with our tower without shared beginnings")
    options = parser.parse_args()

    texts = polars.read_parquet(options.captions, columns=[options.column]).to_series().drop_nulls().to_list()
    texts = texts[:: max(1, len(texts) // (options.limit or len(texts)))][: options.limit]
    encoder = random_encoder(options.model)
    lengths = encoder.tokenizer(texts).argmax(1) + 1
    print(f"{len(texts)} captions, mean {lengths.float().mean():.1f} tokens, {torch.get_num_threads()} threads")
    other = partial(cut, encoder) if options.cut else partial(plain, encoder, batch=options.batch)
    other(texts[:8])
    encoder.encode_text(texts[:8])

    ratios = []
    for ours, slow in alternate(lambda: encoder.encode_text(texts), lambda: other(texts), options.rounds):
        ratios.append((slow.wall / ours.wall, slow.processor / ours.processor))
        print(
            f"{'cut' if options.cut else 'plain'} {len(texts) / slow.wall:.1f}/s, ours {len(texts) / ours.wall:.1f}/s, "
            f"ratio {ratios[-1][0]:.2f} by wall clock, {ratios[-1][1]:.2f} by CPU time"
        )
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratio {wall:.2f} by wall clock, {cpu:.2f} by CPU time")
    cosines = (other(texts[:256]) * encoder.encode_text(texts[:256])).sum(1)
    print(f"largest cosine difference of the first {len(cosines)}: {(1 - cosines).abs().max():.1e}")


if __name__ == "__main__":
    main()
