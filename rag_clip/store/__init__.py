"""Qdrant behind one small interface; the only folder that imports a Qdrant package."""
