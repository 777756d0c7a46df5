"""Qdrant behind one small interface; the only folder that imports a Qdrant package."""

from rag_clip.store.card import Card
from rag_clip.store.check import CheckReport, check_index
from rag_clip.store.copying import CopyReport, copy_store
from rag_clip.store.interface import StoreError
from rag_clip.store.location import Location
from rag_clip.store.opening import create_store, open_store
from rag_clip.store.rows import caption_id
from rag_clip.store.schema import CollectionSchema, load_schema
from rag_clip.store.store import Hybrid, Store

__all__ = [
    "Card",
    "CheckReport",
    "CollectionSchema",
    "CopyReport",
    "Hybrid",
    "Location",
    "Store",
    "StoreError",
    "caption_id",
    "check_index",
    "copy_store",
    "create_store",
    "load_schema",
    "open_store",
]
