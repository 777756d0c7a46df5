"""Turn class names and a corpus of captions into the best CLIP classifier those names can have."""
