"""Opening and creating stores, in a folder or on a server."""

from __future__ import annotations

import os
from pathlib import Path

from rag_clip.data import Fingerprint
from rag_clip.store.card import Card, check_encoder, check_same
from rag_clip.store.location import Location
from rag_clip.store.schema import CollectionSchema
from rag_clip.store.store import Store

DEFAULT_COLLECTION = "captions"


def open_store(location: str | Path, *, encoder: Fingerprint | None = None) -> Store:
    """Open the index in a folder, or the collection at http(s)://host:port[/prefix...][/collection].

    The API key of a server is read from the environment variable QDRANT_API_KEY, and QDRANT_CA_FILE names a file with
    the certificates to trust, for a server whose certificate no public authority signed. Raises FileNotFoundError where
    there is no index, ValueError where it was built with another encoder than `encoder` or by another release,
    StoreError where it is in use or cannot be reached.
    """
    store = _open(str(location), None)
    try:
        if encoder is not None:
            check_encoder(store.card, encoder, store.location)
    except BaseException:
        store.close()
        raise
    return store


def create_store(location: str | Path, *, schema: CollectionSchema, encoder: Fingerprint, dim: int) -> Store:
    """Create an empty index for vectors of width `dim`, or open an existing one with equal encoder, width and schema.

    Raises ValueError, naming the differences, and as `open_store`.
    """
    wanted = Card(encoder=encoder, schema=schema, dim=dim)
    store = _open(str(location), wanted)
    try:
        check_same(store.card, wanted, store.location)
    except BaseException:
        store.close()
        raise
    return store


def _open(location: str, wanted: Card | None) -> Store:
    place = Location(location)
    place.check()
    if place.is_server:
        return _open_server(location, wanted)
    from rag_clip.store.edge import create_edge, open_edge

    engine, card = open_edge(location) if wanted is None else create_edge(location, wanted)
    return Store(engine, card, location)


def _open_server(location: str, wanted: Card | None) -> Store:
    from rag_clip.store.connection import create_server, open_server, reach

    client, collection = reach(
        location, os.environ.get("QDRANT_API_KEY"), ca_file=os.environ.get("QDRANT_CA_FILE") or None
    )
    try:
        if wanted is None:
            engine, card = open_server(client, collection or DEFAULT_COLLECTION, location)
        else:
            engine, card = create_server(client, collection or wanted.schema.name, location, wanted)
    except BaseException:
        client.close()
        raise
    return Store(engine, card, location)
