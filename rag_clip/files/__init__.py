"""The files that users see: labels, prompts, support, features; each is read in full, or refused in one sentence."""
