"""The folder that is served: names in it become paths, and nothing outside it is read or written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal

from rag_clip.errors import RagClipError
from rag_clip.files.locations import is_remote
from rag_clip.files.outputs import made_by
from rag_clip.images.listing import is_image

Kind = Literal["index", "prompts", "predictions", "results", "support", "table", "page"]
KINDS: dict[str, Kind] = {"enhance": "prompts", "classify": "predictions", "evaluate": "results"}
SUFFIXES = (".parquet", ".json", ".html")
DEPTH, MOST = 3, 2000


class NotServedError(RagClipError):
    """A name that is not in the served folder."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or index in the folder: its name below it, what it is, and its size in bytes (0 for an index)."""

    name: str
    kind: Kind
    size: int


@dataclass(frozen=True, slots=True)
class Served:
    """The folder `root`, as an absolute path without links."""

    root: Path
    _kinds: dict[tuple[Path, int, int], Kind | None] = field(default_factory=dict)

    def find(self, name: str) -> Path:
        """Return the path of a file or folder by its name below the root.

        Raises NotServedError for a name that leads out of the root, also through a link, and one that is not there.
        """
        path = self._inside(name)
        with suppress(OSError):  # of a name that is too long
            if path.exists():
                return path
        raise NotServedError(f"there is no {name[:255]} in the served folder; choose one of the files listed")

    def picture(self, address: str, beside: Path) -> tuple[str, int] | None:
        """Return the file and row of a picture whose address an index has: an image file, or TABLE#row=N.

        It is a path from the root, from the folder `beside`, or an absolute one. None for other addresses, such as
        those of the web, and for what is not in the served folder.
        """
        file, mark, row = address.partition("#row=")
        if not file or is_remote(file) or not (row.isdecimal() and len(row) < 16 if mark else is_image(file)):
            return None
        for folder in (self.root, beside):
            with suppress(NotServedError, OSError):
                return self.name(self.find(str(folder / file))), int(row or 0)
        return None

    def new(self, stem: str, suffix: str) -> Path:
        """Return the path of a file that does not exist yet: STEM.suffix, or STEM-2.suffix and so on."""
        names = (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}" for number in count(1))
        return next(path for path in map(self._inside, names) if not path.exists())

    def name(self, path: Path) -> str:
        """Return the name of a path below the root."""
        return path.relative_to(self.root).as_posix()

    def entries(self) -> list[Entry]:
        """List what can be shown, by name; at most MOST files, DEPTH folders deep."""
        return sorted(self._entries(self.root, DEPTH), key=lambda each: each.name)[:MOST]

    def of_kind(self, *kinds: Kind) -> list[str]:
        """List the names of entries of these kinds."""
        return [each.name for each in self.entries() if each.kind in kinds]

    def _inside(self, name: str) -> Path:
        path = self.root if "\0" in name else (self.root / name).resolve()
        below = path.relative_to(self.root).parts if path.is_relative_to(self.root) else ()
        if not below or any(part.startswith(".") for part in below):
            raise NotServedError(f"{name!r} is not in the served folder; only files below it are shown")
        return path

    def _entries(self, folder: Path, depth: int) -> Iterator[Entry]:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.is_symlink():
                continue
            if (path / "card.json").is_file():
                yield Entry(self.name(path), "index", 0)
            elif path.is_dir():
                if depth > 1 and not path.name.endswith((".runs", ".parts", ".shards")):
                    yield from self._entries(path, depth - 1)
            elif path.suffix in SUFFIXES and (kind := self._kind(path)) is not None:
                yield Entry(self.name(path), kind, path.stat().st_size)

    def _kind(self, path: Path) -> Kind | None:
        facts = path.stat()
        key = (path, facts.st_mtime_ns, facts.st_size)
        if key not in self._kinds:
            verb = made_by(path)
            kind = "support" if verb.startswith("support") else KINDS.get(verb)
            if path.suffix == ".html":
                kind = "page" if verb else None
            elif kind is None and path.suffix == ".parquet":
                kind = "table"
            self._kinds[key] = kind
        return self._kinds[key]
