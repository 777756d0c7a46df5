"""Gradient training: the one loop, its checkpoints, and the fine-tuning of whole models."""
