"""Counts of a corpus, in bounded memory."""
