"""What lies on disk: labels, prompts, support, features; each read in full or with one sentence about what is wrong."""
