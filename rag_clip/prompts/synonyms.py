"""The most frequent names of classes in a corpus: synonyms counted, compared and filled into templates.

Parashar et al., 2024, "The Neglected Tails in Vision-Language Models" (REAL, CVPR 2024, arXiv 2401.12425): each class
is named by its most frequent synonym s in the pre-training captions,

    name_c = argmax_s n_cs        texts of class c: T_j(name_c), weighing 1/J each

The ensemble of all names, T_j(s) of weight n_cs / (J * sum_s n_cs), is ours. If one of REAL's files has frequencies for
a class, n_cs are those. Otherwise names are counted in the index: REAL counts substrings; here whole phrases are
counted, without those inside a longer name of another class ("tiger" in "tiger shark").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, get_args

from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.display import counted
from rag_clip.prompts.knowledge.candidates import Candidates
from rag_clip.prompts.knowledge.names import count_alone, folded
from rag_clip.prompts.knowledge.wordnet import Sense
from rag_clip.prompts.templates import SINGLE, choose_templates, fill
from rag_clip.protocols import Encoder

Use = Literal["frequent", "ensemble"]
OWN = "label"
NAMES_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Synonym:
    """A name of a class, its count in the corpus, its source, and the reason if it was dropped."""

    name: str
    count: int
    source: str
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """A name of class `label` with several meanings, given by their definitions."""

    label: str
    name: str
    meanings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SynonymReport:
    """`chosen`: all names considered per class, the class name first (never dropped); `ambiguous`: names to check."""

    chosen: tuple[tuple[Synonym, ...], ...]
    ambiguous: tuple[Ambiguity, ...] = ()

    def kept(self, row: int) -> tuple[Synonym, ...]:
        """Return the names of one class that are not dropped."""
        return tuple(synonym for synonym in self.chosen[row] if not synonym.dropped)


def choose_synonyms(
    labels: LabelSet,
    candidates: Candidates,
    counts: Mapping[str, int],
    *,
    encoder: Encoder | None = None,
    frequencies: Mapping[int, Mapping[str, int]] | None = None,
    senses: Callable[[str], Sequence[Sense]] | None = None,
    template: str = SINGLE[0],
) -> SynonymReport:
    """Drop candidates that also belong to another class, are not in the corpus, or are closer to another class.

    labels: the classes.
    candidates: candidate names per class, with their sources.
    counts: occurrences in the corpus of every name of `names_to_count`, matched as whole phrases.
    encoder: if given, candidates are dropped whose text has a higher cosine with another class name than with that of
        their own class.
    frequencies: by class index; replace the counts of a class, and leave out its candidates without a frequency.
    senses: `WordNet.senses`; if given, kept names with several senses are reported as ambiguous.
    template: of the texts for `encoder`.

    Raises ValueError for candidates with another number of classes, and for a name that was not counted.
    """
    if len(candidates) != len(labels):
        raise ValueError(
            f"{counted(len(candidates), 'group')} of candidates for {counted(len(labels), 'class')}; give one per class"
        )
    found = _counted(labels, candidates, counts)
    for row, known in (frequencies or {}).items():
        names = [(labels.names[row], OWN), *((name, source) for name, source in candidates[row] if name in known)]
        found[row] = [Synonym(name, known.get(name, 0), source) for name, source in dict.fromkeys(names)]
    chosen = _claimed(labels, found)
    if encoder is not None:
        chosen = _near(labels, chosen, encoder, template)
    report = SynonymReport(tuple(map(tuple, chosen)))
    return report if senses is None else replace(report, ambiguous=tuple(_ambiguous(labels, report, senses)))


def names_to_count(labels: LabelSet, candidates: Candidates) -> tuple[str, ...]:
    """Return the names whose counts `choose_synonyms` needs, each once."""
    return tuple(dict.fromkeys([*labels.names, *(name for group in candidates for name, _ in group)]))


def frequent_names(report: SynonymReport) -> tuple[str, ...]:
    """Return the most frequent name of each class; of equally frequent names the class name, then the first."""
    return tuple(max(report.kept(row), key=lambda name: name.count).name for row in range(len(report.chosen)))


def synonym_prompts(
    labels: LabelSet, report: SynonymReport, *, templates: Sequence[str] | None = None, use: Use = "frequent"
) -> Prompts:
    """Fill every template with the most frequent name, or with every name weighted by its count (`ensemble`).

    A class without any name in the corpus keeps its class name. The `source` of a text is for example "synonym:
    wordnet", or "template" for the class name. Raises ValueError for another use, and for a report on other classes.
    """
    if use not in get_args(Use):
        raise ValueError(f"unknown use of synonyms {use!r}; known are {', '.join(get_args(Use))}")
    if tuple(group[0].name for group in report.chosen) != labels.names:
        raise ValueError("the synonyms were chosen for other classes; choose them for this label set")
    filled = choose_templates(labels, templates)
    groups = []
    for row, name in enumerate(frequent_names(report)):
        named = report.kept(row) if use == "ensemble" else [each for each in report.kept(row) if each.name == name]
        total = sum(each.count for each in named)
        shares = [(each, each.count / total) for each in named] if total else [(report.chosen[row][0], 1.0)]
        groups.append(tuple(_texts([(each, share) for each, share in shares if share], filled)))
    provenance = {"encoder": {}, "method": "synonyms", "settings": {"templates": list(filled), "use": use}, "index": ""}
    return Prompts(labels, tuple(groups), provenance)


def _texts(shares: Sequence[tuple[Synonym, float]], templates: Sequence[str]) -> Iterator[PromptText]:
    for synonym, share in shares:
        source = "template" if synonym.source == OWN else f"synonym: {synonym.source}"
        for template in templates:
            yield PromptText(fill(template, synonym.name), share / len(templates), source=source)


def _counted(labels: LabelSet, candidates: Candidates, counts: Mapping[str, int]) -> list[list[Synonym]]:
    """Return the class name and its candidates with counts, per class; spellings with the same words come once."""
    listed = [[(name, OWN), *group] for name, group in zip(labels.names, candidates, strict=True)]
    missing = next((name for group in listed for name, _ in group if name not in counts), None)
    if missing is not None:
        raise ValueError(f"{missing!r} was not counted; count all of names_to_count(labels, candidates)")
    once = [_once(group, counts) for group in listed]
    alone = count_alone(labels, [[name for name, _ in group] for group in once], counts)
    return [
        [Synonym(name, count, source) for (name, source), count in zip(group, numbers, strict=True)]
        for group, numbers in zip(once, alone, strict=True)
    ]


def _once(group: Sequence[tuple[str, str]], counts: Mapping[str, int]) -> list[tuple[str, str]]:
    spelled: dict[tuple[str, int], tuple[str, str]] = {}
    for name, source in group:
        spelled.setdefault((folded(name), counts[name]), (name, source))
    return list(spelled.values())


def _claimed(labels: LabelSet, chosen: Sequence[Sequence[Synonym]]) -> list[list[Synonym]]:
    """Drop candidates that are the name or a candidate of another class, and those that the corpus does not contain."""
    own = {folded(name): row for row, name in enumerate(labels.names)}
    claims = [(folded(each.name), row) for row, group in enumerate(chosen) for each in group]
    claimants = {key: [row for _, row in group] for key, group in groupby(sorted(claims), key=lambda claim: claim[0])}

    def reason(row: int, synonym: Synonym) -> str:
        key = folded(synonym.name)
        if own.get(key, row) != row:
            return f"the name of {labels.names[own[key]]!r}"
        others = [labels.names[other] for other in claimants[key] if other != row]
        if others:
            return f"also a synonym of {others[0]!r}"
        return "" if synonym.count else "not in the corpus"

    return [
        [group[0], *(replace(each, dropped=reason(row, each)) for each in group[1:])]
        for row, group in enumerate(chosen)
    ]


def _near(
    labels: LabelSet, chosen: Sequence[Sequence[Synonym]], encoder: Encoder, template: str
) -> list[list[Synonym]]:
    """Drop candidates whose text is closer to another class name than to that of their own class."""
    own = encoder.encode_text([fill(template, name) for name in labels.names])
    asked = [(row, each.name) for row, group in enumerate(chosen) for each in group[1:] if not each.dropped]
    nearest: dict[tuple[int, str], str] = {}
    for start in range(0, len(asked), NAMES_AT_ONCE):
        part = asked[start : start + NAMES_AT_ONCE]
        cosines = encoder.encode_text([fill(template, name) for _, name in part]) @ own.T  # [names, c]
        best, classes = cosines.max(1)
        mine = cosines[range(len(part)), [row for row, _ in part]]  # [names]
        # By more than rounding, so that a tie drops no name.
        for pair, further, row in zip(part, (best - mine > 1e-6).tolist(), classes.tolist(), strict=True):
            if further:
                nearest[pair] = f"nearer to {labels.names[row]!r}"
    return [
        [replace(each, dropped=nearest.get((row, each.name), each.dropped)) for each in group]
        for row, group in enumerate(chosen)
    ]


def _ambiguous(
    labels: LabelSet, report: SynonymReport, senses: Callable[[str], Sequence[Sense]]
) -> Iterator[Ambiguity]:
    for row, label in enumerate(labels.names):
        for synonym in report.kept(row):
            meanings = tuple(sense.gloss for sense in senses(synonym.name))
            if len(meanings) > 1:
                yield Ambiguity(label, synonym.name, meanings)
