"""The unlabelled images of a whole file as evidence of its classes."""
