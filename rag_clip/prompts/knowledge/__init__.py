"""Knowledge about class names from files: WordNet, synonym files, sentences."""
