"""The cleaning funnel of caption files, preset by preset, with captions per second and CPU core.

    python tests/benchmarks/cleaning.py [CAPTIONS.parquet ...] [--column caption] [--batch 4096]

Without files it cleans the bundled world's corpus. The first pass over the corpus is timed apart; only CPU time of this
process counts, with polars on one thread. A batch has 4,096 rows, as in an ingestion.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from importlib.resources import files
from pathlib import Path

os.environ["POLARS_MAX_THREADS"] = "1"

import polars as pl
import pyarrow as pa

from rag_clip.corpus.cleaning import CleaningSettings, clean_with, load_cleaning, row_rules
from rag_clip.corpus.counts.statistics import count_corpus

SETTINGS = {
    **{name: load_cleaning(name) for name in ("none", "default", "align", "wukong")},
    "min_word_count = 2": CleaningSettings(min_word_count=2),
    "duplicates": CleaningSettings(duplicates=True),
    "and near, 0.85": CleaningSettings(duplicates=True, near_duplicates=0.85),
}


def batches(path: Path, column: str, size: int) -> list[pa.Table]:
    """Read the captions as an ingestion would hand them on."""
    table = pl.read_parquet(path, columns=[column]).select(text=column).with_row_index("row")
    whole = table.with_columns(file=pl.lit(path.name)).to_arrow()
    return [whole.slice(start, size) for start in range(0, whole.num_rows, size)]


def funnel(tables: list[pa.Table], settings: CleaningSettings) -> tuple[Counter[str], float, float]:
    """Return the count of each reason, and the CPU seconds of the first pass and of the cleaning."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        counts = None
        if settings.needs_counts:
            rules = row_rules(settings)
            counts = count_corpus(tables, f"{folder}/counts", rules=rules, near=settings.near_duplicates)
        step = clean_with(settings, counts=counts)
        counted = time.process_time()
        reasons: Counter[str] = Counter()
        for table in tables:
            reasons.update(step(table).reason)
        return reasons, counted - start, time.process_time() - counted


def main() -> None:
    """Parse, clean, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bundled = Path(str(files("rag_clip.demo") / "assets/corpus.parquet"))
    parser.add_argument("captions", type=Path, nargs="*", default=[bundled], help="Parquet files with a text column")
    parser.add_argument("--column", default="caption")
    parser.add_argument("--batch", type=int, default=4096)
    options = parser.parse_args()
    for path in options.captions:
        tables = batches(path, options.column, options.batch)
        rows = sum(table.num_rows for table in tables)
        print(f"\n{path.name}: {rows} captions")
        print(f"{'settings':<20}{'kept':>8}  {'count/s':>9}{'clean/s':>9}  dropped")
        for name, settings in SETTINGS.items():
            reasons, counting, cleaning = funnel(tables, settings)
            first = f"{rows / counting:9,.0f}" if settings.needs_counts else f"{'-':>9}"
            dropped = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "nothing"
            print(f"{name:<20}{rows - reasons.total():>8}  {first}{rows / cleaning:9,.0f}  {dropped}")


if __name__ == "__main__":
    main()
