"""Measures of classifiers from logits, labels and features alone; nothing here encodes or decodes an image."""
