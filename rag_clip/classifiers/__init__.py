"""Prompts (and support) -> Classifier; one method a file."""
