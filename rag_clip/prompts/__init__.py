"""LabelSet -> Prompts; one method a file."""
