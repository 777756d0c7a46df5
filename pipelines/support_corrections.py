"""Make a support set of images that a person has put right: rows of what was classified, and their right labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from rag_clip.data import Prompts
from rag_clip.display import counted
from rag_clip.files.locations import shown
from rag_clip.files.outputs import holding
from rag_clip.files.support import check_support_path, write_support
from rag_clip.given import AnyEncoder, AnyImages, Frame, image_files, to_encoder, to_images, to_texts
from rag_clip.images.corrections import ROW, read_corrections
from rag_clip.images.views import CropViews
from rag_clip.progress_line import on_screen
from rag_clip.support.drawn import Source, assemble, encode_drawn

from .running import Running

Corrections = str | Path | Frame | Mapping[int, str]


@dataclass(frozen=True, slots=True)
class CorrectionsSummary:
    """What `support_from_corrections` did.

    output: the support file.
    images, classes: images in the file, and classes that have some.
    failed: corrected images that cannot be read.
    repeated: images that equal another one; each is one row, with all of its classes.
    """

    output: Path
    images: int
    classes: int
    failed: int
    repeated: int

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.output}: {counted(self.images, 'corrected image')} of {counted(self.classes, 'class')}"

    __repr__ = __str__


@on_screen.job()
def support_from_corrections(
    corrections: Corrections,
    *,
    images: AnyImages,
    prompts: Prompts | str | Path,
    output: str | Path,
    encoder: AnyEncoder | None = None,
    key: str | None = None,
    with_images: bool = False,
    running: Running = Running(),  # noqa: B008
) -> CorrectionsSummary:
    """Write the support set of the images whose labels a person has put right; their origin is `corrected`.

    corrections: a table (a file or a frame) with an image and its right label in each row, or labels by row; see
        `images.corrections`.
    images: what was classified, or the predictions, which hold the same rows.
    prompts: the prompts that it was classified by, which name the classes, or their file.
    output: a Parquet file.
    encoder: an encoder or the name of a model; by default the one that the prompts record.
    key: the column that says which image it is; by default `row`, or else the only column that both have.
    with_images: store the images in the file too, for heads with further encoders.
    running: processes, batch size, `force` and progress.

    Heads learn from corrected images, but are not judged by them: they are errors by choice, and any head would win.
    Raises ValueError as `read_corrections`, if none of the images can be used, and for an output that is an input or
    (without `force`) belongs to another program; BusyError if another process writes the output.
    """
    opened, labels, output = to_images(images), to_texts(prompts).labels, Path(output)
    check_support_path(output)
    table = to_table(corrections)
    inputs = [image_files(opened), *(each for each in (table, prompts) if isinstance(each, str | Path))]
    with holding([(output, "support corrections")], inputs=inputs, force=running.force):
        files = opened.open()
        right = read_corrections(table, files, labels, key=key, label_column=opened.label_column)
        encoder = to_encoder(encoder, recorded=to_texts(prompts).recorded.encoder)
        targets = torch.zeros(sum(file.rows for file in files), dtype=torch.int64)  # of rows that nobody corrected too
        targets[list(right)] = torch.tensor(list(right.values()))
        source = Source(files, labels, targets, opened.label_column)
        drawn = encode_drawn(
            source,
            list(right),
            CropViews(encoder.preprocess, 0, 0),
            encoder=encoder,
            stage="encode corrections",
            decoding=running.decoding,
            report=running.report,
        )
        facts: dict[str, Any] = {"encoder": asdict(encoder.fingerprint), "method": "corrected"}
        facts |= {"files": [shown(file.path) for file in files], "failed": drawn.failed}
        support, kept = assemble(source, drawn, "corrected", facts)
        write_support(support, output, images=source.read(kept) if with_images else None)
    repeated = len(drawn.rows) - len(support)
    return CorrectionsSummary(output, len(support), len(labels) - len(support.missing), drawn.failed, repeated)


def to_table(given: Corrections) -> str | Path | pl.DataFrame:
    """Return the path of corrections, or their frame; raises TypeError for what is neither, nor labels by row."""
    if isinstance(given, str | Path | pl.DataFrame):
        return given
    if isinstance(given, Mapping):
        return pl.DataFrame(
            {ROW: map(str, given), "label": map(str, given.values())}, {ROW: pl.String, "label": pl.String}
        )
    if hasattr(given, "__arrow_c_stream__"):
        return pl.DataFrame(given)
    raise TypeError(f"corrections are {type(given).__name__}; give a path, a frame, or right labels by row")
