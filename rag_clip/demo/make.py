"""Make the bundled data files: `python -m rag_clip.demo.make [--out DIR]`, with the same bytes every time.

labels.json        the label set: names, synonyms, groups, templates
corpus.parquet     captions: id, caption, source
truth.parquet      ground truth of the captions, for evaluation only: id, concept, kind, wrong
test.parquet       photographs: id, image, label, seed (three render seeds); validation.parquet: one other seed
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from rag_clip.data import LabelSet
from rag_clip.demo.captions import KINDS, anonymous_caption, caption, describe, noise_caption
from rag_clip.demo.concepts import WORLD_SEED, Concept, concepts
from rag_clip.demo.designs import FAMILIES, sample_design
from rag_clip.demo.draw import draw_design
from rag_clip.demo.photograph import photograph
from rag_clip.files.labels import write_labels

SOURCES = ("shop", "wiki", "forum", "news", "gallery")
TEMPLATES = ("a photo of {}", "picture of a {}", "{}")
NAMED, NAMELESS, NOISE, COPIES = 30_000, 25_000, 3_500, 2_500
FLOOR = {"head": 40, "tail": 30, "unseen": 40}  # minimum number of captions of a concept
KIND_SHARES = (0.4, 0.2, 0.4)
WRONG_SHARE = 0.04
# Seeds of training photographs are below 2**62, so these are never used in training.
TEST_SEEDS = tuple(2**62 + k for k in (1, 2, 3))
VALIDATION_SEED = 2**62 + 9
PER_SEED, PER_VALIDATION = 3, 2

Row = tuple[str, str, str, bool]  # caption, concept, kind, wrong


def label_set() -> LabelSet:
    """Return the 360 names with their synonyms, groups and the world's templates."""
    known = concepts()
    names, synonyms = tuple(c.name for c in known), tuple(c.synonyms for c in known)
    return LabelSet(names, synonyms=synonyms, groups=tuple(c.group for c in known), templates=TEMPLATES)


def corpus_rows(draw: np.random.Generator) -> list[Row]:
    """Return the captions of the corpus, shuffled: named, nameless, noise, and copies, some in upper case."""
    known = concepts()
    counts = _mentions(known)
    rows = [_speak_of(c, known, draw) for c, count in zip(known, counts, strict=True) for _ in range(count)]
    families = list(FAMILIES)
    for _ in range(NAMELESS):
        design = sample_design(families[int(draw.integers(len(families)))], draw)
        rows.append((anonymous_caption(design, draw), "", "description", False))
    for _ in range(NOISE):
        text, kind = noise_caption(draw)
        rows.append((text, "", kind, False))
    for row in draw.integers(len(rows), size=COPIES):
        text, concept, kind, wrong = rows[row]
        rows.append((text.upper() if draw.random() < 0.2 else text, concept, kind, wrong))
    return [rows[row] for row in draw.permutation(len(rows))]


def _mentions(known: tuple[Concept, ...]) -> list[int]:
    floors = [FLOOR[c.band] for c in known]
    spare = NAMED - sum(floors)
    return [floor + round(spare * c.frequency) for floor, c in zip(floors, known, strict=True)]


def _speak_of(concept: Concept, known: tuple[Concept, ...], draw: np.random.Generator) -> Row:
    if draw.random() < WRONG_SHARE:
        other = known[int(draw.integers(len(known)))]
        return f"{concept.name}: {describe(other.design, draw)}", concept.name, "both", other is not concept
    kind = str(draw.choice(KINDS, p=KIND_SHARES))
    return caption(concept, kind, draw), concept.name, kind, False


def write_corpus(out: Path) -> None:
    """Write corpus.parquet and truth.parquet."""
    draw = np.random.default_rng([WORLD_SEED, 3])
    rows = corpus_rows(draw)
    ids = [f"c{number:06d}" for number in range(len(rows))]
    texts, names, kinds, wrong = zip(*rows, strict=True)
    sources = [SOURCES[k] for k in draw.integers(len(SOURCES), size=len(rows))]
    corpus = pl.DataFrame({"id": ids, "caption": texts, "source": sources})
    truth = pl.DataFrame({"id": ids, "concept": names, "kind": kinds, "wrong": wrong})
    corpus.write_parquet(out / "corpus.parquet", compression="zstd", compression_level=19)
    truth.write_parquet(out / "truth.parquet", compression="zstd", compression_level=19)


def photographs(seed: int, per_concept: int) -> list[bytes]:
    """Return `per_concept` JPEGs of every concept: all concepts in order, `per_concept` times."""
    drawn = np.stack([draw_design(concept.design) for concept in concepts()])
    shown = torch.from_numpy(drawn).permute(0, 3, 1, 2).repeat(per_concept, 1, 1, 1)
    return [encode_jpeg(image) for image in photograph(shown, seed=seed).permute(0, 2, 3, 1).numpy()]


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Return RGB pixels [height, width, 3] as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=88)
    return buffer.getvalue()


def write_images(path: Path, seeds: tuple[int, ...], per_concept: int) -> None:
    """Write photographs of every concept for each seed."""
    names = [concept.name for concept in concepts()] * per_concept
    images = [photographs(seed, per_concept) for seed in seeds]
    table = pa.table(
        {
            "id": [f"{path.stem}-{number:05d}" for number in range(len(names) * len(seeds))],
            "image": pa.array([image for part in images for image in part], pa.binary()),
            "label": names * len(seeds),
            "seed": pa.array(np.repeat(np.arange(len(seeds)), len(names)), pa.int32()),
        }
    )
    pq.write_table(table, path, compression="none", row_group_size=1080)


def make(out: Path) -> None:
    """Write all bundled data files."""
    out.mkdir(parents=True, exist_ok=True)
    write_labels(label_set(), out / "labels.json")
    write_corpus(out)
    write_images(out / "test.parquet", TEST_SEEDS, PER_SEED)
    write_images(out / "validation.parquet", (VALIDATION_SEED,), PER_VALIDATION)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "assets")
    make(parser.parse_args().out)
