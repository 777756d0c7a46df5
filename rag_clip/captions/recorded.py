"""What an index notes of its corpus, and that a later build agrees with it."""

from __future__ import annotations

from typing import Any

from rag_clip.corpus.cleaning import CleaningSettings
from rag_clip.store import Store

CORPUS_NOTE = "corpus"


def check_cleaning(store: Store, cleaning: CleaningSettings) -> None:
    """Refuse to add to an index that was cleaned in another way: what only these settings drop would stay in it.

    Raises ValueError naming the settings that differ.
    """
    noted = store.card.notes.get(CORPUS_NOTE, {}).get("cleaning")
    if noted is None:
        return
    before, now = plain(CleaningSettings()) | noted, plain(cleaning)
    differing = [name for name in before | now if before.get(name) != now.get(name)]
    if differing:
        changes = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in differing)
        raise ValueError(
            f"the captions of the index at {store.location} were cleaned with other settings ({changes}); those that "
            "only these settings drop would stay in it: build another index, or clean as before"
        )


def plain(cleaning: CleaningSettings) -> dict[str, Any]:
    """Return settings as an index notes them."""
    return cleaning.model_dump(mode="json")
