"""Read the classes of a verb, and print notes on problems with their names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rag_clip.cli.console import Console

if TYPE_CHECKING:
    from rag_clip.data import LabelSet

ReadableNames = Annotated[
    bool,
    Parameter(
        name="--readable-names",
        negative=(),
        help="Turn names into words: spaces for underscores and inside CamelCase, no leading numbers.",
    ),
]


def read_classes(path: Path, console: Console, *, readable: bool = False) -> LabelSet:
    """Read a label file, if `readable` with names as words, and print notes on problems with its names."""
    from rag_clip.files.labels import read_labels

    return noted(read_labels(path), console, readable=readable)


def noted(labels: LabelSet, console: Console, *, readable: bool = False) -> LabelSet:
    """Return the classes, if `readable` with names as words, and print notes on problems with their names."""
    from rag_clip.files.readable_names import name_notes, readable_names

    labels = readable_names(labels) if readable else labels
    for note in name_notes(labels):
        console.say(f"note: {note}")
    return labels
