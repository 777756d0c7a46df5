"""Our speed beside the plain way's, side by side in one run: a Markdown table, in under four minutes on two cores.

    python tests/benchmarks/ratios.py [--rounds 3] [--threads 2] [--only text classify ...]

Each row runs ours and the other in turns, one after the other, in every round. Seconds are medians by the wall clock;
ratios are ours / other, median (least to greatest of the rounds), by the wall clock and by processor time. On a machine
that others use, take one thread and compare processor time: threads that wait for each other spend it too.

text         captions through the text tower of ViT-B-32: cut to their tokens / all 77 positions
classify     a Parquet file of JPEGs: read, decode, encode, match, write / the encoder on pixels that are ready
re-classify  the same verb where the features are stored, with a new label set / one product of that size
load         shards into an index: `load_shards` / upserts of the same rows from memory, and optimising
openness     Acc-C, Acc-E and Acc-S: closed form / argmax over the known columns at each step of 60 orders, of which one
             is run and the rest reckoned
sampled      the closed form / `sampled_openness` of 60 orders
tip-x        votes by divergences of signatures, from text logits: one product / a loop over the images
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import heads
import polars as pl
import pyarrow.parquet as pq
import torch
from classify import encode, model_spec, prompts, take_images
from ingest import load_pair
from openness import by_masking, generate
from text_encoding import plain, random_encoder
from timing import Spent, alternate

from rag_clip.classifiers.reuse import Reuse
from rag_clip.classifiers.tip_x import TipXSettings
from rag_clip.data import Features
from rag_clip.files.features import FeatureRows, open_features
from rag_clip.files.identity import identify
from rag_clip.images.decoding import decode_items
from rag_clip.metrics.openness import openness
from rag_clip.metrics.sampling import sampled_openness
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.classify import classify
from rag_clip.testing import ToyEncoder

Call = Callable[[], object]
HEADINGS = ("ours / the other", "size", "ours, s", "other, s", "ratio", "by processor time")
WIDTHS = (40, 34, 7, 8, 28, 28)
CAPTIONS, POINTS, QUERIES = 128, 20_000, 10_000
ROWS_STORED, WIDTH, CLASSES = 20_000, 512, 1000
IMAGES, GROUPS, ORDERS = 10_000, 20, 60


class Row(NamedTuple):
    """A line of the table; `times` is how often the other's work stands for all of it."""

    name: str
    size: str
    ours: Call
    other: Call
    times: float = 1.0


def main() -> None:
    """Parse, measure, print each row as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{os.cpu_count()} processors, {options.threads} threads of torch {torch.__version__}, {platform.machine()}\n"
    )
    print_line(HEADINGS)
    print_line(["-" * width for width in WIDTHS])
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            row = ROWS[name](Path(folder))
            print_line(cells(row, alternate(row.ours, row.other, options.rounds)))


def text(folder: Path) -> Row:
    """Trimmed captions of the bundled corpus against the whole context."""
    corpus = pl.read_parquet(str(files("rag_clip.demo") / "assets/corpus.parquet"), columns=["caption"])["caption"]
    texts = corpus.drop_nulls().gather_every(len(corpus) // CAPTIONS).head(CAPTIONS).to_list()
    encoder = random_encoder("ViT-B-32")
    plain(encoder, texts[:8], 8), encoder.encode_text(texts[:8])
    return Row(
        "encode captions / at full context",
        f"{CAPTIONS} captions, ViT-B-32",
        lambda: encoder.encode_text(texts),
        lambda: plain(encoder, texts, CAPTIONS),
    )


def classify_shape(folder: Path, *, model: str, images: int) -> Row:
    """Classify JPEGs from end to end against the encoder alone."""
    encoder = load_encoder(model_spec(model, folder))
    source = take_images(folder, images, size=(500, 375))
    decoded = decode_items(pq.read_table(source)["image"].to_pylist(), encoder.preprocess)
    pixels = torch.from_numpy(decoded.pixels).permute(0, 3, 1, 2).contiguous()
    encode(encoder, pixels[:16])
    return Row(
        "classify / the encoder alone",
        f"{images:,} JPEGs of 500 x 375, {model}",
        lambda: classify([source], prompts=prompts(), output=folder / "out.parquet", encoder=encoder),
        lambda: encode(encoder, pixels),
    )


def reclassify(folder: Path) -> Row:
    """Classify stored features by another label set against one matrix product."""
    encoder, labelled = ToyEncoder(dim=WIDTH), prompts(CLASSES)
    source = take_images(folder, ROWS_STORED)
    cache = open_features(
        folder, encoder=encoder.fingerprint, source=identify(source), column="image", rows=ROWS_STORED, dim=WIDTH
    )
    features, _, weights = generate(ROWS_STORED, CLASSES)
    for start, stop in cache.spans():
        cache.write(start, FeatureRows(features[start:stop].numpy(), (None,) * (stop - start)))

    def ours() -> None:
        classify(
            [source], prompts=labelled, output=folder / "out.parquet", encoder=encoder, reuse=Reuse(features_dir=folder)
        )

    return Row(
        "classify stored features / one product",
        f"{ROWS_STORED:,} x {WIDTH} x {CLASSES:,}",
        ours,
        lambda: features @ weights.T,
    )


def load(folder: Path) -> Row:
    """Load shards into an index against the engine's bare loop."""
    ours, bare = load_pair(folder, POINTS, 128)
    return Row("load an index / the bare engine", f"{POINTS:,} captions x 128", ours, bare)


def closed_form(folder: Path) -> Row:
    """Openness of every order in closed form against masking in some."""
    logits, targets, groups = open_world()
    return Row(
        f"openness / masking in {ORDERS} orders",
        f"{IMAGES:,} x {CLASSES:,}, {GROUPS} groups",
        lambda: openness(logits, targets, groups),
        lambda: by_masking(logits, targets, groups, 1),
        times=ORDERS,
    )


def sampled(folder: Path) -> Row:
    """Openness in closed form against our own sampling."""
    logits, targets, groups = open_world()
    return Row(
        f"openness / our sampling of {ORDERS} orders",
        f"{IMAGES:,} x {CLASSES:,}, {GROUPS} groups",
        lambda: openness(logits, targets, groups),
        lambda: sampled_openness(logits, targets, groups, trials=ORDERS // GROUPS),
    )


def open_world() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits, targets and groups, once seen by the closed form."""
    features, targets, classes = generate(IMAGES, CLASSES)
    logits, groups = features @ classes.T, torch.arange(CLASSES) % GROUPS
    openness(logits, targets, groups)
    return logits, targets, groups


def tip_x_votes(folder: Path) -> Row:
    """The votes of TIP-X's second affinity, by a product and by a loop."""
    zero_shot, support, draw = heads.make(0, "cpu")
    head, (queries, _) = TipXSettings(alpha=1.17, beta=1.0, gamma=5.0).build(zero_shot, support), draw(QUERIES)
    logits, cosines = zero_shot(Features(queries)), head.cache.cosines(queries)
    head.text_votes(logits, cosines)
    return Row(
        "TIP-X's votes by signatures / a loop",
        f"{QUERIES:,} x {len(support):,} x {heads.CLASSES}",
        lambda: head.text_votes(logits, cosines),
        lambda: heads.loop_votes(head, logits),
    )


ROWS: dict[str, Callable[[Path], Row]] = {
    "text": text,
    "classify": partial(classify_shape, model="ViT-B-32", images=100),
    "classify-micro": partial(classify_shape, model="micro", images=1000),
    "re-classify": reclassify,
    "load": load,
    "openness": closed_form,
    "sampled": sampled,
    "tip-x": tip_x_votes,
}


def cells(row: Row, rounds: Sequence[tuple[Spent, Spent]]) -> list[str]:
    """Fill a line of the table."""
    ours, other = (statistics.median(spent.wall for spent in column) for column in zip(*rounds, strict=True))
    wall = [mine.wall / (row.times * theirs.wall) for mine, theirs in rounds]
    processor = [mine.processor / (row.times * theirs.processor) for mine, theirs in rounds]
    return [row.name, row.size, f"{ours:.3g}", f"{row.times * other:.3g}", spread(wall), spread(processor)]


def spread(ratios: Sequence[float]) -> str:
    """Show the median, and between brackets the least and the greatest."""
    return f"{show(statistics.median(ratios))} ({show(min(ratios))} to {show(max(ratios))})"


def show(ratio: float) -> str:
    """Write small ratios as one part of many."""
    return f"{ratio:.2f}" if ratio > 0.5 else f"1/{1 / ratio:,.{0 if ratio < 0.1 else 1}f}"


def print_line(texts: Sequence[str]) -> None:
    """Print a line of the Markdown table, padded to be read as it is."""
    print("| " + " | ".join(text.ljust(width) for text, width in zip(texts, WIDTHS, strict=True)) + " |", flush=True)


if __name__ == "__main__":
    main()
