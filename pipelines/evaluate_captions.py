"""Measure written captions against references: BLEU-4 and CIDEr."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rag_clip.display import counted
from rag_clip.files.measures import write_measures
from rag_clip.files.outputs import holding
from rag_clip.files.reading import read_table
from rag_clip.metrics.captioning import captioning
from rag_clip.metrics.uncertainty import bootstrap

from .running import Running

FORMAT = b"rag_clip.captioning"


@dataclass(frozen=True, slots=True)
class CaptioningSummary:
    """What `evaluate_captions` measured.

    output: the Parquet file, a row per measure; None without one.
    captions, references: how many were compared.
    failed: rows without a caption or without a reference, which were left out.
    bleu4: of all captions together, 0 to 1.
    cider: mean of the captions, 0 to 10, and its 95 % bootstrap interval over images.
    """

    output: Path | None
    captions: int
    references: int
    failed: int
    bleu4: float
    cider: tuple[float, float, float]

    def __str__(self) -> str:
        """Say it in one line."""
        value, low, high = self.cider
        return (
            f"BLEU-4 {self.bleu4:.3f}, CIDEr {value:.3f} ({low:.3f} to {high:.3f}) over "
            f"{counted(self.captions, 'caption')} and {counted(self.references, 'reference')}, {self.failed} failed"
        )

    __repr__ = __str__


def evaluate_captions(
    captions: str | Path,
    *,
    output: str | Path | None = None,
    caption_column: str = "caption",
    reference_column: str = "references",
    running: Running = Running(),  # noqa: B008
) -> CaptioningSummary:
    """Compare written captions, one an image, with the captions that people wrote.

    captions: a Parquet file with a row per image, such as the captions.parquet of `adapt` with `nlip`.
    output: a Parquet file with a row per measure.
    caption_column, reference_column: the written caption, a string, and the references, a string or a list of strings.
    running: `force`.

    Raises ValueError for missing columns, other types, and fewer than two usable rows; ImportError without the extra
    `captioning`; and for an `output` as `holding` does.
    """
    place, path = None if output is None else Path(output), Path(captions)
    with holding([(place, "evaluate")], inputs=[path], force=running.force):
        table = read_table(path, [caption_column, reference_column])
        written, wanted = (table.column(name).to_pylist() for name in (caption_column, reference_column))
        for name, values in ((caption_column, written), (reference_column, wanted)):
            if strange := next((one for one in values if not isinstance(one, str | list | None)), None):
                raise ValueError(f"column {name!r} of {path} has {strange!r}; give text")
        groups = [list(_texts(each)) for each in wanted]
        usable = [row for row, texts in enumerate(groups) if texts and isinstance(written[row], str)]
        if len(usable) < 2:
            raise ValueError(
                f"{path} has {counted(len(usable), 'row')} with a caption and a reference; give at least two"
            )
        references = [groups[row] for row in usable]
        found = captioning([written[row] for row in usable], references)
        (cider,) = bootstrap(lambda rows: [float(found.cider[rows.numpy()].mean())], len(usable), draws=1000)
        total = sum(len(texts) for texts in references)
        summary = CaptioningSummary(
            place,
            len(usable),
            total,
            len(table) - len(usable),
            found.bleu4,
            (cider.value, cider.low, cider.high),
        )
        if place is not None:
            rows = [
                {"measure": "bleu4", "value": found.bleu4, "low": None, "high": None},
                {"measure": "cider", "value": cider.value, "low": cider.low, "high": cider.high},
            ]
            facts = {"captions": len(usable), "references": total, "failed": summary.failed}
            write_measures(place, rows, kind=FORMAT, facts=facts)
    return summary


def _texts(given: object) -> Iterator[str]:
    for one in given if isinstance(given, list) else [given]:
        if isinstance(one, str) and one.strip():
            yield one
