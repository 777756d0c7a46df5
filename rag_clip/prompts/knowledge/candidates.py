"""Other names that a class may go by: those of the label file, of synonym files and of WordNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rag_clip.data import LabelSet
from rag_clip.prompts.knowledge.names import folded, match_names, require_match
from rag_clip.prompts.knowledge.wordnet import Sense

Candidates = Sequence[Sequence[tuple[str, str]]]
LABEL_FILE = "label file"
WORDNET = "wordnet"


def gather_candidates(
    labels: LabelSet,
    *,
    files: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    senses: Callable[[str], Sequence[Sense]] | None = None,
) -> tuple[tuple[tuple[str, str], ...], ...]:
    """List per class the pairs (name, source): of the label file, of each of `files` by its title, of WordNet.

    Entries of a file find their class by `match_names`; those that match none are left out. A name with one noun sense
    in WordNet (`senses` is WordNet.senses) takes the synonyms of that. A name with several takes those of the one sense
    that shares a synonym with the names listed before, and otherwise none: which sense is meant is not known, and the
    corpus counts every meaning of "wood". Raises ValueError, naming the file, where an entry fits two classes, and
    where none fits any.
    """
    listed = [[(name, LABEL_FILE) for name in synonyms] for synonyms in labels.synonyms]
    for title, synonyms in (files or {}).items():
        try:
            match = match_names(labels, synonyms)
        except ValueError as error:
            raise ValueError(f"{title}: {error}") from error
        require_match(match, labels, title)
        for key, row in match.rows.items():
            listed[row] += [(name, title) for name in synonyms[key]]
    if senses is not None:
        for name, group in zip(labels.names, listed, strict=True):
            group += [(synonym, WORDNET) for synonym in _meant(senses(name), {folded(other) for other, _ in group})]
    return tuple(map(tuple, listed))


def _meant(senses: Sequence[Sense], known: set[str]) -> tuple[str, ...]:
    if len(senses) > 1:
        senses = [sense for sense in senses if known & {folded(synonym) for synonym in sense.synonyms}]
    return senses[0].synonyms if len(senses) == 1 else ()
