"""Guarded downloads of images by their addresses."""
