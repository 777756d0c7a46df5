"""Images on their way in: rows, pairs, decoding, features, and predictions on their way out."""
