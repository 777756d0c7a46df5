"""Open images in any form: Parquet files, tars, lists and folders, local or at an fsspec URL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa

from rag_clip.captions.sources.files import explained
from rag_clip.files.identity import FileIdentity, file_states, identify, identify_remote, remote_state
from rag_clip.files.locations import Place, below, parent, shown, to_place
from rag_clip.files.regular import is_regular
from rag_clip.images.frames import open_frame
from rag_clip.images.listing import LISTS, METADATA, is_image, open_folder, open_list, open_metadata, walk
from rag_clip.images.rows import ImageFile, check_agreement, first_rows, open_parquet
from rag_clip.images.tar_images import open_tar_images

KINDS = "Parquet files, webdataset tars, lists of images (.csv, .tsv, .jsonl), or folders of these or of images"
FILES = (".parquet", ".tar", *LISTS)


@dataclass(frozen=True, slots=True)
class Found:
    """A file with its `identity`; or a folder of images, with functions that list its `names` and their `states`."""

    place: Place
    identity: FileIdentity | None = None
    names: Callable[[], Iterable[str]] | None = None
    states: Callable[[Iterable[str]], Iterator[tuple[str, str]]] | None = None


@dataclass(frozen=True, slots=True)
class Images:
    """Images to read, and how, where it is not as expected: `paths` of `open_image_files`, and tables in memory.

    image_column, label_column, caption_column, url_column: the columns, found by other usual names too; a job looks
        for those that it needs.
    root: the folder at which names of images start; by default that of their file.
    limit: the number of first rows to read alone, None for all.
    """

    paths: Any
    image_column: str = "image"
    label_column: str = "label"
    caption_column: str = "caption"
    url_column: str = "url"
    root: str | Path | None = None
    limit: int | None = None

    def open(self) -> list[ImageFile]:
        """Open the files, as `open_image_files`, up to the limit; raises ValueError for one below 1."""
        return first_rows(open_image_files(self.paths, image_column=self.image_column, root=self.root), self.limit)


def open_image_files(
    paths: str | Path | Sequence[str | Path | pa.Table], *, image_column: str, root: str | Path | None = None
) -> list[ImageFile]:
    """Open images in any form, also tables in memory, and check that the columns of all files agree.

    paths: files, folders, fsspec URLs or tables.
    image_column: the column of the images; if it is the default and missing, another usual name is found.
    root: where relative names of image files start, by default the folder of their file.

    In a folder, the first of these that exists is opened: its tars; its own Parquet files; the Parquet files below it;
    the images listed by its metadata.jsonl or metadata.csv; all its images, with the sub-folder as their label. Files
    may have their columns in different orders; that of the first file is used. If a Parquet column of images contains
    strings, at least one of the first rows must name a file below `root`. Raises FileNotFoundError for a missing file,
    and ValueError, naming the file, for any other problem.
    """
    paths = [paths] if isinstance(paths, str | Path) else paths
    if not paths:
        raise ValueError(f"no image files were given; give {KINDS}")
    found = [each for path in paths for each in ([path] if isinstance(path, pa.Table) else find_images(path))]
    files = [
        open_frame(each, image_column=image_column)
        if isinstance(each, pa.Table)
        else open_images(each, image_column=image_column, root=root)
        for each in _gathered(found)
    ]
    for file in files:
        check_agreement(files[0], file)
    return files


def find_images(path: str | Path) -> list[Found]:
    """Return the files of a place, or the place itself if it is a folder of images; see `open_image_files`.

    Raises FileNotFoundError if the place does not exist, and ValueError if it has no images.
    """
    place = to_place(path)
    if isinstance(place, str):
        return _find_remote(place)
    if not place.exists():
        raise FileNotFoundError(f"there is no file or folder {place}; give {KINDS}")
    if is_regular(place):
        return [Found(place, identify(place))]
    files = _chosen(walk(place))
    if files:
        return [Found(path, identify(path)) for path in (place / name for name in files)]
    return [_folder(Found(place, names=partial(walk, place), states=partial(file_states, place)))]


def open_images(found: Found, *, image_column: str, root: str | Path | None = None) -> ImageFile:
    """Open a file or a folder of images; raises ValueError if it has no images, or none in `image_column`."""
    place, base = found.place, None if root is None else to_place(root)
    if found.names and found.states:
        lists = [name for name in found.names() if PurePosixPath(name).name in METADATA]
        if not lists:
            return open_folder(place, found.states(name for name in found.names() if is_image(name)))
        states = [state for each in found.states(lists) for state in each]
        return open_metadata(place, lists, FileIdentity(shown(place), tuple(states)))
    name = place if isinstance(place, Path) else urlsplit(place).path
    suffix = PurePosixPath(name).suffix.lower()
    assert found.identity
    if suffix == ".tar":
        return open_tar_images(place, found.identity)
    if suffix in LISTS:
        return open_list(place, found.identity, image_column=image_column, root=base)
    if is_image(suffix):
        return open_folder(parent(place), [(PurePosixPath(name).name, str(found.identity))])
    return open_parquet(place, found.identity, image_column=image_column, root=base)


def _gathered(found: Sequence[Found | pa.Table]) -> Iterator[Found | pa.Table]:
    """Yield the entries, with consecutive image files of one folder joined into one folder of these files."""
    for folder, group in groupby(found, _folder_of_image):
        members = list(group)
        if folder is None or len(members) == 1:
            yield from members
        else:
            yield _folder_of(folder, members)


def _folder_of(folder: Place, files: Sequence[Found]) -> Found:
    states = {PurePosixPath(each.place).name: str(each.identity) for each in files}
    names = [PurePosixPath(each.place).name for each in files]  # the same file may be given twice
    return Found(folder, names=lambda: names, states=lambda wanted: ((name, states[name]) for name in wanted))


def _folder_of_image(found: Found | pa.Table) -> Place | None:
    """Return the folder of an image file; None for anything else."""
    if isinstance(found, pa.Table) or found.names or not is_image(str(found.place)):
        return None
    return parent(found.place)


def _chosen(names: Iterable[str]) -> list[str]:
    """Return the tars of a folder, or else its Parquet files; [] for a folder of images."""
    known = [name for name in names if name.endswith((".tar", ".parquet"))]
    tars = [name for name in known if name.endswith(".tar")]
    return tars or [name for name in known if "/" not in name] or known


def _folder(found: Found) -> Found:
    """Return the folder unchanged; raises ValueError if it has no images."""
    assert found.names
    if not any(is_image(name) or PurePosixPath(name).name in METADATA for name in found.names()):
        raise ValueError(f"the folder {shown(found.place)} has no .parquet file, no .tar and no image; give {KINDS}")
    return found


def _find_remote(url: str) -> list[Found]:
    with explained(url):
        filesystem, path = fsspec.url_to_fs(url)
        if "*" in path:
            matches = [filesystem.unstrip_protocol(name) for name in sorted(filesystem.glob(path))]
            return [_remote_file(filesystem, match, match) for match in matches]
        suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
        if suffix in FILES or is_image(suffix) or filesystem.isfile(path):
            return [_remote_file(filesystem, path, url)]
        if not filesystem.exists(path):
            raise FileNotFoundError(f"there is no file or folder {shown(url)}; give {KINDS}")
        files: dict[str, Any] = filesystem.find(path, detail=True)
    states = {_inside(name, path): remote_state(information) for name, information in sorted(files.items())}
    states = {name: state for name, state in states.items() if not f"/{name}".count("/.")}
    chosen = _chosen(states)
    if chosen:
        return [Found(below(url, name), FileIdentity(shown(below(url, name)), (states[name],))) for name in chosen]
    return [_folder(Found(url, names=lambda: states, states=lambda names: ((name, states[name]) for name in names)))]


def _inside(name: str, folder: str) -> str:
    return name.strip("/").removeprefix(folder.strip("/")).strip("/")


def _remote_file(filesystem: Any, path: str, url: str) -> Found:
    try:
        return Found(url, identify_remote(url, filesystem.info(path)))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {shown(url)}") from None
