"""Settings and counts of runs made by hand, that the tests of results and their pages share."""

from __future__ import annotations

from rag_clip.evaluation.settings import ImageCounts, RunSettings, TaskFacts

SETTINGS = RunSettings(
    task=TaskFacts(files=("a.parquet",), image_column="image", classes=4), tuned="Nothing was tuned."
)
COUNTS = ImageCounts(images=8, failed=0, reasons={})
