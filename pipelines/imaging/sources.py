"""Find files of image-caption pairs: Parquet files of images, webdataset tars, or folders of either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_clip.decode import ImageError
from rag_clip.places import Place

from ..sources.columns import is_list
from .items import Item
from .named_files import holds_names
from .pairs import Pair, PairFile
from .rows import ImageFile, open_parquet, read_rows
from .tars import open_tar


@dataclass(frozen=True, slots=True)
class PairColumns:
    """The columns of a Parquet file that hold images, captions and, where there is such a column, addresses."""

    image: str = "image"
    caption: str = "caption"
    url: str = "url"


@dataclass(frozen=True, slots=True)
class ParquetPairs:
    """A Parquet file with a column of images and one of captions; a PairFile.

    A relative path starts at the file's root, and every path must lie below it, links followed.
    """

    file: ImageFile
    columns: PairColumns

    @property
    def path(self) -> Place:
        """The file."""
        return self.file.path

    @property
    def identity(self) -> tuple[str | int, ...]:
        """What changes when the file does."""
        return self.file.identity

    @property
    def source(self) -> str:
        """The file's name without its ending."""
        return Path(self.path).stem

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return self.file.rows

    @property
    def row_bytes(self) -> int:
        """Bytes per row in the row group with the largest."""
        return self.file.row_bytes

    def read(self, sizes: Sequence[int], *, start: int) -> Iterator[list[Pair]]:
        """Yield as many rows at a time as `sizes` says, from row `start` on."""
        has_url = self.columns.url in self.file.schema.names
        names = [self.columns.image, self.columns.caption, *([self.columns.url] if has_url else [])]
        for table in read_rows(self.file, sizes, start=start, columns=names):
            images = self.file.items(table[self.columns.image])
            captions = table[self.columns.caption].to_pylist()
            urls = table[self.columns.url].to_pylist() if has_url else [""] * len(images)
            yield [
                self._to_pair(image, caption, url or "", start + place)
                for place, (image, caption, url) in enumerate(zip(images, captions, urls, strict=True))
            ]
            start += table.num_rows

    def _to_pair(self, image: Item, caption: str | list[str] | None, url: str, row: int) -> Pair:
        if isinstance(image, ImageError):
            return Pair(None, caption, url, str(row), str(image))
        return Pair(image, caption, url, str(row))


def open_pair_files(
    paths: Sequence[str | Path], *, columns: PairColumns, root: str | Path | None = None
) -> Iterator[PairFile]:
    """Yield the files of pairs, in order, each opened when it is its turn.

    A folder stands for its tars, or for its Parquet files where it has no tars (img2dataset writes both, and the
    Parquet files then hold no images). The source of pairs in tars is the name of the folder. Where a Parquet file
    names images by path, paths start at `root`, by default the file's own folder, and must lie below it.

    All Parquet files are checked before the first is yielded. Raises FileNotFoundError for a missing path, and
    ValueError for a folder without such files, for wrong columns, and for what is neither Parquet nor tar.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    found = {file: source for path in paths for file, source in _find(Path(path)).items()}
    if not found:
        raise ValueError("no images were given; give Parquet files of images, webdataset tars, or folders of them")
    parquet = {path: _open_parquet(path, columns, root) for path in found if path.suffix != ".tar"}
    return (parquet[path] if path in parquet else open_tar(path, source=source) for path, source in found.items())


def _find(path: Path) -> dict[Path, str]:
    """Return the files that a path stands for, each with the name of the folder it was found under."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}; give Parquet files of images or webdataset tars")
    if not path.is_dir():
        return {path: path.resolve().parent.name}
    inside = sorted(path.rglob("*.tar")) or sorted(path.rglob("*.parquet"))
    if not inside:
        raise ValueError(f"the folder {path} holds no .tar and no .parquet file")
    return dict.fromkeys(inside, path.resolve().name)


def _open_parquet(path: Path, columns: PairColumns, root: str | Path | None) -> ParquetPairs:
    file = open_parquet(path, image_column=columns.image, root=Path(root).resolve() if root else None)
    if columns.caption not in file.schema.names:
        raise ValueError(
            f"{path} has no column {columns.caption!r}; its columns are {', '.join(file.schema.names)}. "
            "Name the one with the captions"
        )
    kind = value = file.schema.field(columns.caption).type
    if is_list(value):
        value = value.value_type
    if not holds_names(value):
        raise ValueError(f"column {columns.caption!r} of {path} is {kind}; captions are strings, or lists of them")
    return ParquetPairs(file, columns)
