"""LabelSet or Prompts -> Support: images that stand for classes; one method a file."""
