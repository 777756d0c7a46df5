"""The heads as plain values, to list them without importing torch, which takes seconds.

`python -m rag_clip.classifiers.head_list` writes them from the table `HEADS`; a test compares the two.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

PLACE = Path(str(files("rag_clip.classifiers"))) / "heads.json"


def listed_heads() -> dict[str, dict[str, Any]]:
    """Return `good_for`, `paper`, `needs` and the default `settings` of each head, by name."""
    heads: dict[str, dict[str, Any]] = json.loads(PLACE.read_text(encoding="utf-8"))
    return heads


def heads_of_table() -> dict[str, dict[str, Any]]:
    """Return the same from the table `HEADS`; this imports torch."""
    from rag_clip.classifiers.heads import HEADS

    return {
        name: {"good_for": head.good_for, "paper": head.paper, "needs": head.needs, "settings": head.defaults}
        for name, head in HEADS.items()
    }


if __name__ == "__main__":
    PLACE.write_text(json.dumps(heads_of_table(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
