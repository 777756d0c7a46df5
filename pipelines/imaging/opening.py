"""Open what people have of images: Parquet files, and folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .rows import ImageFile, check_agreement, open_parquet


def open_image_files(
    paths: Sequence[str | Path], *, image_column: str, root: str | Path | None = None
) -> list[ImageFile]:
    """Check that the files, or those in folders, are Parquet, hold `image_column`, and agree in their columns.

    A folder stands for its Parquet files, or where it has none itself for those below it. Columns may come in another
    order; the first file's order counts. Where the images are strings, some of the first must name files below `root`,
    by default the folder of their Parquet file. Raises FileNotFoundError for a missing file, and ValueError for
    everything else that is wrong with the files, naming them.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    if not paths:
        raise ValueError("no image files were given; give at least one Parquet file")
    found = [file for path in paths for file in _in_folder(Path(path))]
    files = [open_parquet(file, image_column=image_column, root=(root and Path(root)) or None) for file in found]
    for file in files:
        check_agreement(files[0], file)
    return files


def _in_folder(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.parquet")) or sorted(path.rglob("*.parquet"))
    if not found:
        raise ValueError(f"the folder {path} holds no .parquet file; give a folder or files of images")
    return found
