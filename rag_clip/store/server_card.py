"""The card of a collection on a server: in the collection's metadata, which Qdrant 1.16 was the first to have.

On an older server it is the payload of a point in a collection of cards, `rag_clip_cards`, without vectors.
"""

from __future__ import annotations

import uuid
from copy import deepcopy
from typing import Any

from qdrant_client import QdrantClient, models

from rag_clip.store.card import Card

METADATA_KEY = "rag_clip"
CARDS = "rag_clip_cards"
_NAMESPACE = uuid.UUID("5a0e7a56-9f43-5f0c-8a53-0c1d5a0b6a52")


def read_server_card(client: QdrantClient, collection: str) -> dict[str, Any] | None:
    """Return the stored values of a card, payload fields by name; None where the collection has none.

    A server keeps no order of keys, and answers with another one after each start.
    """
    values = _read(client, collection)
    if values is not None and isinstance(payload := (values.get("schema") or {}).get("payload"), dict):
        values["schema"]["payload"] = dict(sorted(payload.items()))
    return values


def _read(client: QdrantClient, collection: str) -> dict[str, Any] | None:
    metadata = client.get_collection(collection).config.metadata or {}
    if METADATA_KEY in metadata:
        return deepcopy(dict(metadata[METADATA_KEY]))
    if not client.collection_exists(CARDS):
        return None
    found = client.retrieve(CARDS, [_id(collection)], with_payload=True)
    return deepcopy(dict(found[0].payload[METADATA_KEY])) if found and found[0].payload else None


def write_server_card(client: QdrantClient, collection: str, card: Card) -> None:
    """Replace the card where it is stored: written as metadata, and as a point where it cannot be read back."""
    client.update_collection(collection, metadata={METADATA_KEY: card.to_dict()})
    if METADATA_KEY not in (client.get_collection(collection).config.metadata or {}):
        write_card_point(client, collection, card)


def write_card_point(client: QdrantClient, collection: str, card: Card) -> None:
    """Store a card as a point, for servers without metadata: before the collection, which so never lacks a card."""
    if not client.collection_exists(CARDS):
        client.create_collection(CARDS, vectors_config={})
    payload = {METADATA_KEY: card.to_dict(), "collection": collection}
    client.upsert(CARDS, [models.PointStruct(id=_id(collection), vector={}, payload=payload)], wait=True)


def _id(collection: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, collection))
