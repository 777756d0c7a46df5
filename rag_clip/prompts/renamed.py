"""Prompts with classes renamed to their synonyms, to measure how much predictions depend on the chosen word.

A text contains a name if it is a template filled with the name, or else if it contains the words of the name; an ending
-s or -es is kept. Only anchors are renamed, since context texts quote a corpus. The method is ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.prompts.knowledge.names import folded
from rag_clip.prompts.templates import choose_templates, fill
from rag_clip.words import spans_of


@dataclass(frozen=True, slots=True)
class Swaps:
    """`prompts` of s labels "class → synonym", each with the renamed texts of its class; `classes` are the classes."""

    prompts: Prompts
    classes: tuple[int, ...]


def swap_names(prompts: Prompts) -> Swaps | None:
    """Rename each class to each of its other names, one at a time; None where no class can be renamed.

    Other names are the class name and its synonyms, without names that another class also has and the name that its
    texts already contain. A class whose anchors contain none of its names cannot be renamed.
    """
    shared, claims = shared_templates(prompts), Counter(_claims(prompts.labels))
    names, texts, classes = [], [], []
    for row, (label, group) in enumerate(zip(prompts.labels.names, prompts.texts, strict=True)):
        spellings = _spellings(prompts.labels, row)
        templates = [_template(text, spellings, shared) for text in group]
        for name in spellings:
            renamed = tuple(map(_filled, group, templates, [name] * len(group)))
            if _spoken(renamed) != _spoken(group) and claims[folded(name)] == 1:
                names.append(f"{label} → {name}")
                texts.append(renamed)
                classes.append(row)
    if not names:
        return None
    return Swaps(Prompts(LabelSet(tuple(names)), tuple(texts), prompts.provenance), tuple(classes))


def shared_templates(prompts: Prompts) -> tuple[str, ...]:
    """Return the templates that the anchors of at least half of the classes fill, in order of appearance.

    Without any, return those of the label set, or the default ones.
    """
    found = Counter[str]()
    for row, group in enumerate(prompts.texts):
        spellings = _spellings(prompts.labels, row)
        templates = (_template(text, spellings, ()) for text in group)
        found.update(list(dict.fromkeys(template for template in templates if template is not None)))
    often = tuple(template for template, classes in found.items() if 2 * classes >= len(prompts.labels))
    return often or choose_templates(prompts.labels)


def _spoken(group: Sequence[PromptText]) -> list[str]:
    return [folded(text.text) for text in group]


def _claims(labels: LabelSet) -> Iterator[str]:
    """Yield every folded name, once for each class that has it."""
    for row in range(len(labels)):
        yield from {folded(name) for name in _spellings(labels, row)}


def _spellings(labels: LabelSet, row: int) -> list[str]:
    spelled: dict[str, str] = {}
    for name in (labels.names[row], *labels.synonyms[row]):
        spelled.setdefault(folded(name), name)
    return list(spelled.values())


def _template(text: PromptText, spellings: Sequence[str], shared: Sequence[str]) -> str | None:
    """Return the anchor with '{}' in place of a name of the class; None where it contains none."""
    if text.role != "anchor":
        return None
    known = next((template for template in shared for name in spellings if fill(template, name) == text.text), None)
    if known is not None:
        return known
    template = text.text
    for start, end in reversed(spans_of(spellings, endings=True)(template)):
        template = f"{template[:start]}{{}}{template[end:]}"
    return template if template != text.text else None


def _filled(text: PromptText, template: str | None, name: str) -> PromptText:
    return text if template is None else replace(text, text=fill(template, name))
