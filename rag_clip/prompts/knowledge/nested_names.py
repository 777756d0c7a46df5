"""How often a corpus says a name by itself, and not inside the longer name of another class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rag_clip.data import LabelSet
from rag_clip.prompts.knowledge.names import folded


def count_alone(labels: LabelSet, names: Sequence[Sequence[str]], counts: Mapping[str, int]) -> list[list[int]]:
    """Return the count of each name, less those of the names of other classes that contain it word by word.

    `names` are listed per class; `counts` holds them and the labels' own. Where "shark" is inside "tiger shark", and
    that inside "sand tiger shark", the count of "tiger shark" covers both. Never below zero: an occurrence inside two
    names that overlap ("great white" and "white shark" in "great white shark") is taken away twice.
    """
    sizes = {len(folded(name).split()) for group in names for name in group}
    around: dict[str, list[int]] = {}
    for row, label in enumerate(labels.names):
        words = folded(label).split()
        for size in sizes & set(range(1, len(words))):
            for start in range(len(words) - size + 1):
                around.setdefault(" ".join(words[start : start + size]), []).append(row)

    def alone(row: int, name: str) -> int:
        rows = [other for other in around.get(folded(name), ()) if other != row]
        longer = {f" {folded(labels.names[other])} ": labels.names[other] for other in rows}
        shortest = [key for key in longer if not any(other in key for other in longer if other != key)]
        return max(0, counts[name] - sum(counts[longer[key]] for key in shortest))

    return [[alone(row, name) for name in group] for row, group in enumerate(names)]
