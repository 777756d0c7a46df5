"""Tensors in, numbers out: what is measured of predictions, rankings, probabilities and vocabularies."""
