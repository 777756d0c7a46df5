"""Encoders behind one protocol: open_clip and timm models, their weights, and the pixels they take."""
