"""Images on their way in: rows, pairs, decoding, views and features."""
