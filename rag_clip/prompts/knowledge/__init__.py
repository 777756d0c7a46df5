"""What others wrote down about class names: WordNet, synonym files, sentences."""
