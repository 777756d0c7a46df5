"""Objectives, one per file: settings with the paper's defaults, which build the loss of a batch."""
