"""Captions on their way to an index: rows, pieces, cleaning, and shards that a killed run finds again."""
