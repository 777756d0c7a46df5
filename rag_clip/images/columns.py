"""Find the column of images, labels or captions in a file under any of its usual names."""

from __future__ import annotations

from collections.abc import Sequence

IMAGES = (
    *("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "path", "file_name", "filename", "file"),
    *("filepath", "file_path", "image_path", "image_file", "image_base64"),
)
LABELS = ("label", "labels", "class", "class_name", "category", "target", "cls")
CAPTIONS = ("caption", "captions", "text", "txt", "sentences", "sentence")


def choose(names: Sequence[str], wanted: str, known: Sequence[str]) -> str | None:
    """Return the column `wanted`; if it is missing and the default, known[0], the first of `known` that exists.

    The names in `known` match in upper or lower case. Returns None if no column matches.
    """
    if wanted in names or known[:1] != (wanted,):
        return wanted if wanted in names else None
    return next((name for other in known for name in names if name.lower() == other), None)
