"""Open files of image-caption pairs: webdataset tars, and images in any form with a column of captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from rag_clip.captions.sources.columns import is_list
from rag_clip.files.identity import FileIdentity
from rag_clip.files.locations import Place
from rag_clip.images.columns import CAPTIONS, choose
from rag_clip.images.items import Item
from rag_clip.images.opening import KINDS, Found, Images, find_images, open_images
from rag_clip.images.pairs import Pair, PairFile
from rag_clip.images.rows import ImageFile, holds_names, read_rows
from rag_clip.images.tars import open_tar
from rag_clip.models.decode import ImageError


@dataclass(frozen=True, slots=True)
class PairColumns:
    """The names of the columns of images, captions and, if the file has them, web addresses."""

    image: str = "image"
    caption: str = "caption"
    url: str = "url"


@dataclass(frozen=True, slots=True)
class ImagePairs:
    """A file of images with a column of captions; a PairFile."""

    file: ImageFile
    columns: PairColumns

    @property
    def path(self) -> Place:
        """The file."""
        return self.file.path

    @property
    def identity(self) -> FileIdentity:
        """The file's identity, which changes with its content."""
        return self.file.identity

    @property
    def source(self) -> str:
        """The file's name without its suffix."""
        return PurePosixPath(self.path).stem

    @property
    def rows(self) -> int:
        """The number of rows of the file."""
        return self.file.rows

    @property
    def row_bytes(self) -> int:
        """Bytes per row in the row group with the largest rows."""
        return self.file.row_bytes

    def read(self, sizes: Sequence[int], *, start: int) -> Iterator[list[Pair]]:
        """Yield lists of pairs of the given sizes, from row `start` on."""
        image, caption = self.file.image, self.columns.caption
        has_url = self.columns.url in self.file.schema.names
        names = list(dict.fromkeys([image, caption, *([self.columns.url] if has_url else [])]))
        for table in read_rows(self.file, sizes, start=start, columns=names):
            images = self.file.items(table[image])
            captions = table[caption].to_pylist()
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


def open_pairs(images: Images) -> tuple[Iterator[PairFile], PairColumns]:
    """Open the files of pairs that `images` names, as `open_pair_files`, and return them with the columns.

    Raises ValueError also for a limit of rows, which pairs do not have.
    """
    if images.limit is not None:
        raise ValueError(f"pairs are read with all rows of their files; leave out the limit of {images.limit}")
    columns = PairColumns(images.image_column, images.caption_column, images.url_column)
    return open_pair_files(images.paths, columns=columns, root=images.root), columns


def open_pair_files(
    paths: Sequence[str | Path], *, columns: PairColumns, root: str | Path | None = None
) -> Iterator[PairFile]:
    """Yield the files of pairs, in order; a tar is opened only when it is its turn.

    paths: files, folders or fsspec URLs, searched as by `open_image_files`.
    columns: the names of the columns.
    root: where relative names of image files start, by default the folder of their file; names in a Parquet file must
        lie below it.

    The source of pairs from tars is the name of the folder. All files except tars are checked before the first is
    yielded. Raises FileNotFoundError for a missing path, and ValueError for a folder without images, for wrong columns,
    and for files of other kinds.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    found = {each.place: (each, _source(path, each)) for path in paths for each in find_images(path)}
    if not found:
        raise ValueError(f"no images were given; give {KINDS}")
    opened = {place: _open(each, columns, root) for place, (each, _) in found.items() if not _is_tar(each)}
    return (
        opened[place] if place in opened else open_tar(place, source=source, identity=each.identity)
        for place, (each, source) in found.items()
    )


def _source(path: str | Path, found: Found) -> str:
    """Return the name of the folder in which a file was found."""
    if isinstance(found.place, str):
        return PurePosixPath(found.place).parent.name
    folder = Path(path).resolve()
    return folder.name if folder.is_dir() else folder.parent.name


def _is_tar(found: Found) -> bool:
    return found.names is None and PurePosixPath(found.place).suffix.lower() == ".tar"


def _open(found: Found, columns: PairColumns, root: str | Path | None) -> ImagePairs:
    file = open_images(found, image_column=columns.image, root=root and Path(root).resolve())
    caption = choose(file.schema.names, columns.caption, CAPTIONS)
    if caption is None:
        raise ValueError(
            f"{file.path} has no column {columns.caption!r}; its columns are {', '.join(file.schema.names)}. "
            "Give the name of the column with the captions"
        )
    kind = value = file.schema.field(caption).type
    if is_list(value):
        value = value.value_type
    if not (holds_names(value) or pa.types.is_null(value)):
        raise ValueError(f"column {caption!r} of {file.path} is {kind}; captions are strings, or lists of them")
    return ImagePairs(file, PairColumns(columns.image, caption, columns.url))
