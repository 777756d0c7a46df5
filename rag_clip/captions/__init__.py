"""Captions for an index: reading rows, cutting them into pieces, cleaning, and shards for resuming a killed run."""
