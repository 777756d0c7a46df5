"""The location of an index: a local folder, or a collection on a Qdrant server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rag_clip.files.locations import shown

_SERVER = ("http://", "https://")
_ALMOST_A_SERVER = re.compile(r"[\w.-]+:\d+(/.*)?|\w+://.*")  # an address without its scheme, or with another


@dataclass(frozen=True, slots=True)
class Location:
    """The location of an index as the user gave it: a folder, or http(s)://HOST[:PORT][/PREFIX...][/COLLECTION]."""

    text: str

    @property
    def is_server(self) -> bool:
        """Whether the location is the address of a server."""
        return self.text.startswith(_SERVER)

    @property
    def collection(self) -> str:
        """The collection in the address of a server; '' where there is none, and for a folder."""
        return urlsplit(self.text).path.strip("/").rpartition("/")[2] if self.is_server else ""

    @property
    def absolute(self) -> str:
        """The absolute path of a folder, equal for all spellings of it; an address as it is."""
        return self.text if self.is_server else str(Path(self.text).resolve())

    def beside(self, ending: str) -> Path:
        """Return the path of the folder with `ending` appended to its name; raises ValueError for a server."""
        if self.is_server:
            raise ValueError(f"the index at {shown(self.text)} is on a server; there is no folder beside it")
        path = Path(self.text)
        return path.with_name(f"{path.name}{ending}")

    def check(self) -> None:
        """Raise ValueError for an empty text, and for an address other than http or https."""
        if not self.text.strip() or (not self.is_server and _ALMOST_A_SERVER.fullmatch(self.text)):
            raise ValueError(
                f"an index is a folder, or http://HOST:6333[/COLLECTION] of a Qdrant server; found {shown(self.text)!r}"
            )
