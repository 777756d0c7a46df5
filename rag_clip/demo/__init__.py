"""The bundled micro world: a renderer, its captions, and a tiny CLIP trained on them."""
