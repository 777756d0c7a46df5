"""Qdrant behind one small interface; the only folder that imports a Qdrant package."""

from rag_clip.store.card import Card
from rag_clip.store.interface import StoreError
from rag_clip.store.opening import create_store, open_store
from rag_clip.store.rows import caption_id
from rag_clip.store.schema import CollectionSchema, load_schema
from rag_clip.store.store import Store

__all__ = ["Card", "CollectionSchema", "Store", "StoreError", "caption_id", "create_store", "load_schema", "open_store"]
