"""Other names in the place of the classes' own: what the texts of a class would be had it been called otherwise.

A text speaks a name where it is a template filled with it, or else holds its words; an ending -s or -es stays. Only
anchors are renamed: contexts are what a corpus says. Ours; for measuring how far predictions depend on
the word that was chosen.
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
    """`prompts` of s labels "class → synonym", each with the texts of its class renamed, and their classes [s]."""

    prompts: Prompts
    classes: tuple[int, ...]


def swap_names(prompts: Prompts) -> Swaps | None:
    """Rename each class to each of its other names, one at a time; None where no class can be.

    Names are the label's own and its synonyms, less those that another class has as well, and less the one that its
    texts speak already. A class of which no anchor speaks a name cannot be renamed.
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

    Where there is none, those of the label set, or the default ones.
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
    """Yield every name folded, once for each class that has it."""
    for row in range(len(labels)):
        yield from {folded(name) for name in _spellings(labels, row)}


def _spellings(labels: LabelSet, row: int) -> list[str]:
    spelled: dict[str, str] = {}
    for name in (labels.names[row], *labels.synonyms[row]):
        spelled.setdefault(folded(name), name)
    return list(spelled.values())


def _template(text: PromptText, spellings: Sequence[str], shared: Sequence[str]) -> str | None:
    """Return an anchor with '{}' where it speaks a name of the class, None where it does not."""
    if text.role != "anchor":
        return None
    known = next((one for one in shared for name in spellings if fill(one, name) == text.text), None)
    if known is not None:
        return known
    found = text.text
    for start, end in reversed(spans_of(spellings, endings=True)(found)):
        found = f"{found[:start]}{{}}{found[end:]}"
    return found if found != text.text else None


def _filled(text: PromptText, template: str | None, name: str) -> PromptText:
    return text if template is None else replace(text, text=fill(template, name))
