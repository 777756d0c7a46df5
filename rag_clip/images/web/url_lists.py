"""Lists of image addresses with captions, from Parquet, CSV, TSV or plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from rag_clip.files.reading import read_table
from rag_clip.files.regular import is_regular

READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": lambda path: pl.DataFrame(read_table(path)),
    ".csv": partial(pl.read_csv, infer_schema=False),
    ".tsv": partial(pl.read_csv, infer_schema=False, separator="\t"),
}


def read_url_lists(paths: Sequence[str | Path], *, url_column: str, caption_column: str | None) -> pl.DataFrame:
    """Return the columns url and caption, both strings, of all files; each pair once, in the order of the files.

    A .txt file has one address a line and no captions. A column is found in upper or lower case too. Rows without an
    address are left out. Raises FileNotFoundError for a missing file, and ValueError for one that cannot be read or
    lacks a column, and where no address is left.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    tables = [_read(Path(path), url_column, caption_column) for path in paths]
    if not tables:
        raise ValueError("no lists were given; give at least one file of image addresses")
    pairs = pl.concat(tables).filter(pl.col("url").str.strip_chars() != "").unique(maintain_order=True)
    if not len(pairs):
        raise ValueError(f"{', '.join(map(str, paths))} hold no address; column {url_column!r} is empty")
    return pairs


def _read(path: Path, url_column: str, caption_column: str | None) -> pl.DataFrame:
    if not is_regular(path):
        raise FileNotFoundError(f"there is no file {path}; give lists of image addresses")
    if path.suffix == ".txt":
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return pl.DataFrame({"url": [line.strip() for line in lines]}, schema={"url": pl.String}).with_columns(
            caption=pl.lit(None, pl.String)
        )
    if path.suffix not in READERS:
        raise ValueError(f"{path} is none of {', '.join(READERS)} or .txt; convert it to one of them")
    try:
        table = READERS[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix} ({' '.join(str(error).split())[:200]})") from error
    url = _column(table, url_column, path).str.strip_chars()
    caption = pl.lit(None, pl.String) if caption_column is None else _column(table, caption_column, path)
    return table.select(url=url, caption=caption)


def _column(table: pl.DataFrame, name: str, path: Path) -> pl.Expr:
    found = [column for column in table.columns if column == name]
    found = found or [column for column in table.columns if column.lower() == name.lower()]
    if len(found) != 1:
        raise ValueError(
            f"{path} has no column {name!r}; its columns are {', '.join(table.columns)}. Name the right one"
        )
    if table.schema[found[0]] != pl.String:
        raise ValueError(f"column {found[0]!r} of {path} is {table.schema[found[0]]}, not strings")
    return pl.col(found[0])
