"""The main job on the bundled world: index its captions, enhance its names, classify its photographs, compare methods.

The default recipe was chosen on validation photographs (docs/decisions.md); the test photographs only give scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from rag_clip.classifiers.prepared import PreparedHead, prepare_head
from rag_clip.classifiers.reuse import Reuse
from rag_clip.corpus.cleaning import load_cleaning
from rag_clip.data import LabelSet, Prompts
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.demo.pictures import FILE as PICTURES
from rag_clip.demo.pictures import write_pictures
from rag_clip.files.atomic import replacing
from rag_clip.files.labels import read_labels
from rag_clip.files.lock import locked
from rag_clip.files.outputs import check_outputs, made_by
from rag_clip.files.prompts import write_prompts
from rag_clip.progress import Progress, Report
from rag_clip.progress_line import on_screen
from rag_clip.prompts.enhance import control_prompts, enhance
from rag_clip.prompts.recipe import load_recipe
from rag_clip.protocols import Encoder
from rag_clip.report.demo import CLASSES, write_report
from rag_clip.store import open_store

from .captions import build_index
from .classify import classify
from .images import index_images
from .running import Running
from .support_retrieve import retrieve_support

BUNDLED = ("labels.json", "corpus.parquet", "truth.parquet", "test.parquet", "validation.parquet")
HEAD = "ridge"
METHODS = {
    "templates": "templates",
    "repe": "RePE as published",
    "retrieved": "default recipe",
    "support": "+ photographs found",
    "random": "control: random captions",
    "waffle": "control: random words",
}


@dataclass(frozen=True, slots=True)
class Score:
    """Top-1 accuracy in percent: mean and sample standard deviation over the render seeds of the test set."""

    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What the demo measured.

    table: for each method, the score of each band of names and of all.
    names, images, captions: how many there were.
    seconds: per stage.
    report: the HTML page.
    """

    table: Mapping[str, Mapping[str, Score]]
    names: int
    images: int
    captions: int
    seconds: Mapping[str, float]
    report: Path

    @property
    def facts(self) -> str:
        """What the table was measured on, in one paragraph."""
        return (
            f"{self.images} photographs, {self.names} names, {self.captions} captions; mean ± standard deviation "
            "over three render seeds. The default recipe was chosen on other photographs; its controls add as many "
            f"texts with the same weights. The head {HEAD!r} uses the photographs found."
        )

    def cells(self) -> dict[str, dict[str, str]]:
        """Return the table as text, with the methods' full names."""
        return {
            METHODS[name]: {band: f"{score.mean:.1f} ± {score.spread:.1f}" for band, score in row.items()}
            for name, row in self.table.items()
        }


@on_screen.job()
def run_demo(out: str | Path, *, encoder: Encoder, force: bool = False, report: Report = on_screen) -> DemoSummary:
    """Write the bundled files to `out`, run index, enhance and classify on them, and write the two pages.

    A second call in the same folder continues or reuses what is there. Raises ValueError (without `force`) for a folder
    with files of other programs, OSError if it cannot be written, and BusyError if another process writes it.
    """
    check_outputs([(out, "demo")], force=force)
    check_pages(Path(out), force=force)
    with locked(Path(out) / "lock", doing=f"run the demo in {out}"):
        return _run_demo(Path(out), encoder, report)


def check_pages(out: Path, *, force: bool) -> None:
    """Raise ValueError (without `force`) if the report or the page of classes would replace files of other programs."""
    pages = [path for path in (out / "report.html", out / CLASSES) if path.exists()]
    other = next((path for path in pages if made_by(path) != "demo"), None)
    if other is not None and not force:
        raise ValueError(
            f"{other} exists and was not written by `rag-clip demo`; name another folder, or replace it with --force "
            "(in Python: force=True)"
        )


def _run_demo(out: Path, encoder: Encoder, report: Report) -> DemoSummary:
    progress = Progress()
    with progress.stage("copy"):
        write_bundled(out)
    with progress.stage("index"):
        built = build_index(
            [out / "corpus.parquet"], index=out / "index", encoder=encoder, running=Running(report=report)
        )
    with progress.stage("enhance"):
        labels = read_labels(out / "labels.json")
        prompts = _enhance(labels, out / "index", encoder, report)
    with progress.stage("support"):
        head = _find_support(prompts["retrieved"], out, encoder, report)
    with progress.stage("classify"):
        for name in METHODS:
            _classify(
                name,
                prompts.get(name, prompts["retrieved"]),
                out,
                encoder,
                report,
                head=head if name == "support" else None,
            )
    table = {name: score_bands(out / f"predictions-{name}.parquet") for name in METHODS}
    images = pq.read_metadata(out / "test.parquet").num_rows
    page = out / "report.html"
    summary = DemoSummary(table, len(labels), images, built.count, dict(progress.seconds), page)
    write_report(page, summary.cells(), summary.seconds, summary.facts, prompts=prompts["retrieved"], encoder=encoder)
    return summary


def write_bundled(out: Path) -> None:
    """Copy the bundled files to `out`, except for those that are there already."""
    for name in BUNDLED:
        if not (out / name).exists():
            with replacing(out / name) as partial:
                partial.write_bytes(files("rag_clip.demo").joinpath("assets", name).read_bytes())


def _enhance(labels: LabelSet, index: Path, encoder: Encoder, report: Report) -> dict[str, Prompts]:
    with open_store(index, encoder=encoder.fingerprint) as store:
        ask = partial(enhance, labels, encoder=encoder, store=store, progress=Progress(report=report))
        found = ask()
        return {
            "templates": ask(recipe=load_recipe("templates")),
            "repe": ask(recipe=load_recipe("repe")),
            "retrieved": found,
            "random": control_prompts(found, "random", store=store),
            "waffle": control_prompts(found, "waffle"),
        }


def _find_support(prompts: Prompts, out: Path, encoder: Encoder, report: Report) -> PreparedHead:
    """Index photographs with captions, retrieve some for each name, no test photographs, and fit a head on them."""
    if not (out / PICTURES).exists():
        with replacing(out / PICTURES) as partial:
            write_pictures(partial, names=prompts.labels.names)
    running = Running(report=report)
    cleaning = load_cleaning("none")
    index_images([out / PICTURES], index=out / "images", encoder=encoder, cleaning=cleaning, running=running)
    retrieve_support(
        prompts,
        output=out / "support.parquet",
        index=out / "images",
        encoder=encoder,
        search="captions",
        against=[out / "test.parquet"],
        running=running,
    )
    return prepare_head(HEAD, out / "support.parquet", labels=prompts.labels, encoder=encoder, report=report)


def _classify(
    name: str, prompts: Prompts, out: Path, encoder: Encoder, report: Report, *, head: PreparedHead | None = None
) -> None:
    write_prompts(prompts, out / f"prompts-{name}.parquet")
    classify(
        [out / "test.parquet"],
        prompts=prompts,
        output=out / f"predictions-{name}.parquet",
        encoder=encoder,
        head=head,
        reuse=Reuse(features_dir=out / "features"),
        running=Running(report=report),
    )


def score_bands(predictions: Path, bands: Sequence[str] = BANDS) -> dict[str, Score]:
    """Return the scores of each band and of all rows of a predictions file (label, predicted_label, seed)."""
    band_of = pl.DataFrame({"label": [c.name for c in concepts()], "band": [c.band for c in concepts()]})
    table = pl.read_parquet(predictions, columns=["label", "predicted_label", "seed"]).join(band_of, on="label")
    table = table.with_columns((pl.col("label") == pl.col("predicted_label")).fill_null(False).alias("right"))
    return {band: _score(table if band == "all" else table.filter(pl.col("band") == band)) for band in (*bands, "all")}


def _score(table: pl.DataFrame) -> Score:
    per_seed = 100 * table.group_by("seed").agg(pl.col("right").mean()).sort("seed")["right"].to_numpy()
    return Score(float(per_seed.mean()), float(np.std(per_seed, ddof=1)))
