"""Columns that hold images by the names of their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from rag_clip.images.items import embedded_image, leaves


def holds_names(kind: pa.DataType) -> bool:
    """Tell whether a column of this type holds strings."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_names(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return holds_names(kind.value_type)
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def check_names(names: Sequence[str], path: str, column: str, root: Path) -> None:
    """Refuse the first values of a column where none names a file below `root`, before each row fails for itself.

    Raises ValueError saying what to do, for addresses in particular.
    """
    if not names or any(embedded_image(name) is not None or _is_inside(root / name, root) for name in names):
        return
    advice = (
        "nothing is fetched here: `rag-clip index download` does, and its tars go into `rag-clip index images`"
        if "://" in names[0]
        else "give bytes, {bytes, path} structs, base64 texts, or paths of files in that folder"
    )
    raise ValueError(
        f"column {column!r} of {path} holds strings, and none of the first {len(names)} names a file below '{root}' "
        f"(the first is {names[0][:100]!r}); {advice}"
    )


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.is_file() and not leaves(path, root)
    except (OSError, ValueError):  # too long for a name, or a null character
        return False
