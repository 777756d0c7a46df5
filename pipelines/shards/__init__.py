"""Cutting a corpus into shards, cleaned and embedded, that a killed run finds again."""
