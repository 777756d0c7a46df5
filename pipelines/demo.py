"""The main job on the bundled world: index its captions, enhance its names, classify its photographs, compare.

The weight of the retrieved captions is chosen on the validation photographs; the test photographs are only scored.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch

from rag_clip.classifiers.zero_shot import zero_shots
from rag_clip.data import LabelSet, Prompts
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.enhance import Settings, enhance
from rag_clip.labels import read_labels
from rag_clip.match import match
from rag_clip.progress import Report, StageClock, silent
from rag_clip.prompt_file import write_prompts
from rag_clip.prompts.retrieved import weigh_context
from rag_clip.protocols import Encoder
from rag_clip.store import open_store

from .captions import build_index
from .classify import classify
from .demo_report import write_report

BUNDLED = ("labels.json", "corpus.parquet", "truth.parquet", "test.parquet", "validation.parquet")
WEIGHTS = (0.25, 0.5, 0.75, 0.9)
PUBLISHED = Settings(search="dense")
RECIPE = Settings(keep="phrase", names="dropped")
METHODS = {
    "templates": "templates",
    "published": "RePE as published: dense search",
    "repe": "RePE, hybrid search",
    "retrieved": "retrieved, names left out",
    "random": "control: random captions",
}
WEIGHED = ("retrieved", "random")


@dataclass(frozen=True, slots=True)
class Score:
    """Top-1 accuracy in percent: mean and sample standard deviation over the render seeds of the test set."""

    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What the demo measured: a score per method, for each band and for all; seconds per stage; where the files are.

    `validation` is the accuracy on the validation photographs for each weight tried, `weight` the one chosen.
    """

    table: Mapping[str, Mapping[str, Score]]
    weight: float
    validation: Mapping[float, float]
    names: int
    images: int
    captions: int
    seconds: Mapping[str, float]
    report: Path

    @property
    def facts(self) -> str:
        """Say in one sentence what the table is over."""
        tried = ", ".join(f"{weight:g}: {100 * value:.1f}" for weight, value in self.validation.items())
        return (
            f"{self.images} photographs, {self.names} names, {self.captions} captions; mean ± standard deviation "
            f"over three render seeds. RePE gives the captions weight 0.25, as published; the last two rows give them "
            f"{self.weight:g}, chosen on validation photographs (top-1 by weight: {tried})."
        )

    def cells(self) -> dict[str, dict[str, str]]:
        """Return the table as text, with the methods' full names."""
        return {
            METHODS[name]: {band: f"{score.mean:.1f} ± {score.spread:.1f}" for band, score in row.items()}
            for name, row in self.table.items()
        }


def run_demo(out: str | Path, *, encoder: Encoder, report: Report = silent) -> DemoSummary:
    """Write the bundled files to `out`, run index, enhance and classify on them, and write report.html.

    A second call in the same folder continues or reuses what is there. Raises OSError where `out` cannot be written.
    """
    out, clock = Path(out), StageClock()
    with clock.stage("copy"):
        write_bundled(out)
    with clock.stage("index"):
        built = build_index([out / "corpus.parquet"], index=out / "index", encoder=encoder, report=report)
    with clock.stage("enhance"):
        labels = read_labels(out / "labels.json")
        found = _enhance(labels, out / "index", encoder, report)
    with clock.stage("choose weight"):
        validation = score_weights(found["retrieved"], out / "validation.parquet", encoder)
        weight = max(validation, key=lambda candidate: (validation[candidate], -candidate))
        prompts = {name: weigh_context(made, weight) if name in WEIGHED else made for name, made in found.items()}
    with clock.stage("classify"):
        for name, made in prompts.items():
            _classify(name, made, out, encoder, report)
    table = {name: score_bands(out / f"predictions-{name}.parquet") for name in prompts}
    images = pq.read_metadata(out / "test.parquet").num_rows
    page = out / "report.html"
    summary = DemoSummary(table, weight, validation, len(labels), images, built.count, dict(clock.seconds), page)
    write_report(page, summary.cells(), summary.seconds, summary.facts, prompts=prompts["retrieved"], encoder=encoder)
    return summary


def write_bundled(out: Path) -> None:
    """Copy the bundled files to `out`, leaving those that are there already."""
    out.mkdir(parents=True, exist_ok=True)
    for name in BUNDLED:
        if not (out / name).exists():
            with files("rag_clip.demo").joinpath("assets", name).open("rb") as source, (out / name).open("wb") as copy:
                shutil.copyfileobj(source, copy)


def _enhance(labels: LabelSet, index: Path, encoder: Encoder, report: Report) -> dict[str, Prompts]:
    with open_store(index, encoder=encoder.fingerprint) as store:
        ask = partial(enhance, labels, encoder=encoder, store=store, report=report)
        return {
            "templates": ask(method="templates"),
            "published": ask(settings=PUBLISHED),
            "repe": ask(),
            "retrieved": ask(settings=RECIPE),
            "random": ask(method="random", settings=RECIPE),
        }


def _classify(name: str, prompts: Prompts, out: Path, encoder: Encoder, report: Report) -> None:
    write_prompts(prompts, out / f"prompts-{name}.parquet")
    classify(
        [out / "test.parquet"],
        prompts=prompts,
        output=out / f"predictions-{name}.parquet",
        encoder=encoder,
        features_dir=out / "features",
        report=report,
    )


def score_weights(prompts: Prompts, validation: Path, encoder: Encoder) -> dict[float, float]:
    """Return the top-1 accuracy on a labelled Parquet for each of WEIGHTS as the weight of the retrieved captions."""
    table = pq.read_table(validation, columns=["image", "label"])
    images = encoder.encode_images(table["image"].to_pylist())
    position = {name: row for row, name in enumerate(prompts.labels.names)}
    truth = torch.tensor([position[name] for name in table["label"].to_pylist()], device=images.pooled.device)
    classifiers = zero_shots([weigh_context(prompts, weight) for weight in WEIGHTS], encoder)
    right = [match(classifier, images, top_k=1).labels[:, 0] == truth for classifier in classifiers]
    return {weight: float(hits.float().mean()) for weight, hits in zip(WEIGHTS, right, strict=True)}


def score_bands(predictions: Path, bands: Sequence[str] = BANDS) -> dict[str, Score]:
    """Return the scores of `bands` and of all rows, of a predictions file with columns label, predicted_label, seed."""
    band_of = pl.DataFrame({"label": [c.name for c in concepts()], "band": [c.band for c in concepts()]})
    table = pl.read_parquet(predictions, columns=["label", "predicted_label", "seed"]).join(band_of, on="label")
    table = table.with_columns((pl.col("label") == pl.col("predicted_label")).fill_null(False).alias("right"))
    return {band: _score(table if band == "all" else table.filter(pl.col("band") == band)) for band in (*bands, "all")}


def _score(table: pl.DataFrame) -> Score:
    per_seed = 100 * table.group_by("seed").agg(pl.col("right").mean()).sort("seed")["right"].to_numpy()
    return Score(float(per_seed.mean()), float(np.std(per_seed, ddof=1)))
