"""From image files to embeddings: rows, pairs, decoding, views and features."""
