"""The images job: what it stores, counts and reuses."""

from __future__ import annotations
