"""Photographs of the demo's concepts, drawn once in each process: those of all concepts are drawn together."""

from __future__ import annotations

from functools import cache

from rag_clip.demo import make


def photographs(count: int) -> list[bytes]:
    """Return a JPEG of each of the first `count` concepts."""
    return list(_drawn()[:count])


@cache
def _drawn() -> tuple[bytes, ...]:
    return tuple(make.photographs(5, 1))
