"""Measures of predictions, rankings, probabilities and vocabularies: tensors in, numbers out."""
