"""Images in a table in memory, such as a polars or pandas frame, one per row."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa

from rag_clip.files.identity import FileIdentity, digest_table
from rag_clip.images.listing import check_some
from rag_clip.images.rows import ImageFile, choose_images, holds_names, table_batches

NAME = "the frame"


def open_frame(table: pa.Table, *, image_column: str) -> ImageFile:
    """Open a table whose `image_column` contains images, or file names relative to the working directory.

    Other usual names of the column are found too. The identity is a digest of the column, so that features of equal
    images are found in a cache. Raises ValueError if no column can contain images.
    """
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError(f"{NAME} names a column twice ({', '.join(table.column_names)}); rename one")
    column = choose_images(table.schema, image_column, NAME)

    row_bytes = table.nbytes // max(1, len(table))
    identity = FileIdentity(NAME, (digest_table(table.select([column])),))
    file = ImageFile(
        NAME,
        table.schema,
        len(table),
        row_bytes,
        column,
        Path.cwd(),
        identity,
        partial(table_batches, table),
        confined=False,
    )
    if holds_names(table.schema.field(column).type) and len(table):
        check_some(file, column)
    return file
