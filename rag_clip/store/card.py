"""The card of a collection: its encoder, the width of its vectors, and its schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from rag_clip.data import Fingerprint, check_same_encoder, read_fingerprint
from rag_clip.store.schema import READABLE_VERSIONS, SCHEMA_VERSION, CollectionSchema


def now() -> str:
    """Return the current time in UTC, as ISO text to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Card:
    """Metadata stored when the collection is created; later only `notes` are added, each with its date."""

    encoder: Fingerprint
    schema: CollectionSchema
    dim: int
    schema_version: int = SCHEMA_VERSION
    created: str = field(default_factory=now)
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def with_note(self, name: str, facts: Mapping[str, Any]) -> Card:
        """Return the card with a dated note added or replaced."""
        return replace(self, notes={**self.notes, name: {**facts, "date": now()}})

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain values, ready for JSON."""
        return {
            "encoder": asdict(self.encoder),
            "schema": self.schema.plain(),
            "dim": self.dim,
            "schema_version": self.schema_version,
            "created": self.created,
            "notes": {name: dict(facts) for name, facts in self.notes.items()},
        }


def read_card(values: dict[str, Any], location: str) -> Card:
    """Return the Card from stored values; raises ValueError where another release wrote them or keys are missing."""
    version = values.get("schema_version")
    if version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise ValueError(
            f"the index at {location} has schema version {version}; this release reads versions {readable}: "
            "build the index again"
        )
    try:
        return Card(
            encoder=read_fingerprint(values["encoder"]),
            schema=CollectionSchema.model_validate(values["schema"]),
            dim=int(values["dim"]),
            schema_version=version,
            created=str(values["created"]),
            notes={str(name): dict(facts) for name, facts in values["notes"].items()},
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"the card of the index at {location} is damaged ({error}): build the index again") from None


def check_encoder(card: Card, encoder: Fingerprint, location: str, *, of_images: bool = False) -> None:
    """Raise ValueError for an encoder whose vectors, or `of_images` alone, cannot be compared with the stored ones."""
    advice = "use the encoder of the index, or build another index"
    what = f"the index at {location} was built"
    check_same_encoder(card.encoder, encoder, what=what, advice=advice, of_images=of_images)


def check_same(card: Card, wanted: Card, location: str) -> None:
    """Raise ValueError, naming the differences, unless encoder, width and schema are those of the collection.

    An index of an older version stays one: only what its version has is compared.
    """
    check_encoder(card, wanted.encoder, location)
    if card.dim != wanted.dim:
        raise ValueError(
            f"the index at {location} holds vectors of width {card.dim}, not {wanted.dim}; build another index"
        )
    stored, given = card.schema.plain(), wanted.schema.model_dump(mode="json")
    differing = [key for key in stored if key != "schema_version" and stored[key] != given[key]]
    if differing:
        changes = "; ".join(f"{key}: stored {stored[key]}, given {given[key]}" for key in differing)
        raise ValueError(f"the index at {location} has another schema ({changes}); build another index")
