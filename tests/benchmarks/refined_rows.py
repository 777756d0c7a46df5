"""What refinement costs on kept features: time and peak memory of `classify` with and without it.

    python tests/benchmarks/refined_rows.py FOLDER [--rows 1000000] [--classes 1000]

Features of width 512 are generated around the texts of the classes and kept in FOLDER (2 kB a row), so that nothing is
decoded; the images are one picture, over and over. Each run is a process of its own, in turns, and prints its stages,
its wall and processor seconds, and its highest resident memory. The rows are in the order of their classes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from timing import timed

from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.reuse import Reuse
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.files.features import FeatureRows, open_features
from rag_clip.files.identity import identify
from rag_clip.pipelines.classify import classify
from rag_clip.testing import ToyEncoder

WIDTH, NOISE = 512, 0.06  # of each value; a text is of length one


def main() -> None:
    """Keep the features, then classify plainly and refined, twice each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=("plain", "refined"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(run(options.folder, options.classes, refine=options.only == "refined")))
        return
    keep(options.folder, options.rows, options.classes)
    for _ in range(options.rounds):
        for name in ("plain", "refined"):
            given = [str(options.folder), "--classes", str(options.classes), "--only", name]
            done = subprocess.run([sys.executable, __file__, *given], check=True, capture_output=True, text=True)
            print(name, done.stdout.splitlines()[-1], flush=True)


def prompts(classes: int) -> Prompts:
    """Return one text for each class."""
    names = tuple(f"class {number}" for number in range(classes))
    return Prompts(LabelSet(names), tuple((PromptText(name, 1.0),) for name in names), {"method": "names"})


def keep(folder: Path, rows: int, classes: int) -> None:
    """Write the images, and their features a shard at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    source, encoder = folder / "images.parquet", ToyEncoder(dim=WIDTH)
    pictures = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([b"one picture"]))
    pq.write_table(pa.table({"image": pictures}), source)
    texts = zero_shot(prompts(classes), encoder).weights.numpy()
    place, fingerprint = folder / "features", encoder.fingerprint
    cache = open_features(place, encoder=fingerprint, source=identify(source), column="image", rows=rows, dim=WIDTH)
    for start, stop in cache.spans():
        noise = np.random.default_rng(start).normal(0, NOISE, (stop - start, WIDTH)).astype(np.float32)
        drawn = texts[np.arange(start, stop) * classes // rows] + noise
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        cache.write(start, FeatureRows(drawn, (None,) * (stop - start)))


def run(folder: Path, classes: int, *, refine: bool) -> dict[str, object]:
    """Classify once, and return what it took."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        summary, spent = timed(
            lambda: classify(
                [folder / "images.parquet"],
                prompts=prompts(classes),
                output=Path(name) / "out.parquet",
                encoder=ToyEncoder(dim=WIDTH),
                scoring=Scoring(refine=refine),
                reuse=Reuse(features_dir=folder / "features"),
            )
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    stages = {name: round(seconds, 1) for name, seconds in summary.seconds.items() if seconds >= 0.1}
    changed = None if summary.refined is None else round(summary.refined.changed, 4)
    return {
        "rows": summary.rows,
        "decoded": summary.decoded,
        "seconds": round(spent.wall, 1),
        "processor": round(spent.processor, 1),
        "peak MiB": round(peak),
        "changed": changed,
        "stages": stages,
    }


if __name__ == "__main__":
    main()
