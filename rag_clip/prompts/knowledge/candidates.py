"""Candidate synonyms of class names, from the label file, synonym files and WordNet."""

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
    """Return the (name, source) pairs of each class: from the label file, from `files` by title, and from WordNet.

    Entries of a file are assigned to classes by `match_names`; entries without a class are left out. A class name with
    one noun sense in WordNet (`senses` is `WordNet.senses`) gets the synonyms of that sense. A class name with several
    senses gets those of the only sense that shares a synonym with the names listed so far, and otherwise none: the
    intended sense is not known, and a corpus count of "wood" covers all its meanings. Raises ValueError, naming the
    file, where an entry matches two classes, and where no entry matches a class.
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
