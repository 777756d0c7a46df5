"""Numbers that are equal but for rounding, inside of values that are compared whole."""

from __future__ import annotations

from typing import Any

import pytest


def near(value: float, rel: float | None = None) -> Any:
    """Return `pytest.approx(value)`, typed so that it may stand where a dataclass has a float."""
    return pytest.approx(value, rel=rel)
