"""The checkout, and the folder of shared material that may lie beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rag_clip.store.worker import stored_ranges

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"
FEATURES = SHARED / "data/features"
needs_features = pytest.mark.skipif(not FEATURES.is_dir(), reason="needs ../shared")


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder, of its files only what they store: shutil makes zeros of the holes, 170 MB of them an index."""
    shutil.copytree(source, target, copy_function=_copy_stored, dirs_exist_ok=True)


def _copy_stored(source: str, target: str) -> None:
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        for start, end in stored_ranges(Path(source)):
            old.seek(start)
            new.seek(start)
            new.write(old.read(end - start))
        new.truncate(Path(source).stat().st_size)
    shutil.copystat(source, target)
