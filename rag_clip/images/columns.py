"""Which column of a file holds its images, labels or captions, where it is not called as expected."""

from __future__ import annotations

from collections.abc import Sequence

IMAGES = (
    *("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "path", "file_name", "filename", "file"),
    *("filepath", "file_path", "image_path", "image_file", "image_base64"),
)
LABELS = ("label", "labels", "class", "class_name", "category", "target", "cls")
CAPTIONS = ("caption", "captions", "text", "txt", "sentences", "sentence")


def choose(names: Sequence[str], wanted: str, known: Sequence[str]) -> str | None:
    """Return the column `wanted`; where it is the default, known[0], and missing, the first of `known` that is there.

    Names are compared without regard to case. None where there is none.
    """
    if wanted in names or known[:1] != (wanted,):
        return wanted if wanted in names else None
    return next((name for other in known for name in names if name.lower() == other), None)
