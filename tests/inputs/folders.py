"""The checkout, and the folder of shared material that may lie beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"
FEATURES = SHARED / "data/features"
needs_features = pytest.mark.skipif(not FEATURES.is_dir(), reason="needs ../shared")
