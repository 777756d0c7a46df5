"""The named concepts of the micro world: their names, designs and frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from rag_clip.demo.designs import FAMILIES, Design, sample_design, vary_design

WORLD_SEED = 20261122
PER_FAMILY = 30
BANDS = ("head", "tail", "unseen")
# Names that are also common words; the corpus has captions with both meanings (captions.ORDINARY).
ORDINARY_NAMES = ("Lantern", "Harvest", "Ember", "Anchor", "Meadow", "Falcon", "Copper", "Willow")
_MODIFIERS = ("Old", "Upper", "Royal", "Saint", "Grand", "Lower", "New", "Great")
_ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou", "ia")
_CODAS = ("", "", "l", "n", "r", "s", "th", "nd", "rk", "x", "m")


@dataclass(frozen=True, slots=True)
class Concept:
    """One class of the micro world.

    name, synonyms: its names; `name_share` of the captions that name it use `name`.
    band: "head", "tail" or "unseen", by frequency.
    frequency: share of training captions that name it.
    design: what it looks like.
    """

    name: str
    synonyms: tuple[str, ...]
    name_share: float
    band: str
    frequency: float
    design: Design

    @property
    def group(self) -> str:
        """Its superclass."""
        return self.design.family


@cache
def concepts() -> tuple[Concept, ...]:
    """Return the 360 concepts, always the same: 12 groups of 30, with a third of each group in every band.

    Four of ten designs differ from another design of their group in one attribute. One name in five shares a modifier
    with others, three in ten concepts have synonyms, eight names are common words, and some synonyms are the name of
    another concept. Frequencies follow Zipf's law within the head and within the rarer tail, and are zero for the
    unseen.
    """
    draw = np.random.default_rng(WORLD_SEED)
    designs = [design for family in FAMILIES for design in _family_designs(family, draw)]
    names = _names(len(designs), draw)
    bands = np.concatenate([draw.permutation(np.repeat(BANDS, PER_FAMILY // len(BANDS))) for _ in FAMILIES])
    frequencies = _frequencies(bands, draw)
    spare = iter(_invent(len(designs), draw, taken=set(names)))
    shared = iter(_shared_names(names, designs, draw))
    made = []
    for row, design in enumerate(designs):
        synonyms = [next(spare) for _ in range(int(draw.choice([0, 1, 2], p=[0.7, 0.2, 0.1])))]
        if row % 45 == 7 and not synonyms:
            synonyms.append(next(shared))
        share = float(draw.choice([0.3, 0.6])) if synonyms else 1.0
        made.append(Concept(names[row], tuple(synonyms), share, str(bands[row]), float(frequencies[row]), design))
    return tuple(made)


def _family_designs(family: str, draw: np.random.Generator) -> list[Design]:
    designs: list[Design] = []
    while len(designs) < PER_FAMILY:
        if designs and draw.random() < 0.4:
            design = vary_design(designs[int(draw.integers(len(designs)))], draw)
        else:
            design = sample_design(family, draw)
        if design not in designs:
            designs.append(design)
    return designs


def _invent(count: int, draw: np.random.Generator, taken: set[str]) -> list[str]:
    words: list[str] = []
    while len(words) < count:
        syllables = [
            str(draw.choice(_ONSETS)) + str(draw.choice(_VOWELS)) + str(draw.choice(_CODAS))
            for _ in range(int(draw.integers(2, 4)))
        ]
        word = "".join(syllables).capitalize()
        if 5 <= len(word) <= 10 and word not in taken:
            taken.add(word)
            words.append(word)
    return words


def _names(count: int, draw: np.random.Generator) -> list[str]:
    names = _invent(count, draw, taken=set(ORDINARY_NAMES))
    for row in range(0, count, 5):
        names[row] = f"{draw.choice(_MODIFIERS)} {names[row]}"
    for place, word in enumerate(ORDINARY_NAMES):
        names[3 + 45 * place] = word
    return names


def _shared_names(names: list[str], designs: list[Design], draw: np.random.Generator) -> list[str]:
    """Return names that become synonyms of other concepts."""
    rows = [(row + len(designs) // 2) % len(designs) for row in range(7, len(designs), 45)]
    return [names[row + 1] for row in draw.permutation(rows)]


def _frequencies(bands: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    frequencies = np.zeros(len(bands))
    for band, total in (("head", 0.93), ("tail", 0.07)):
        members = draw.permutation(np.flatnonzero(bands == band))
        zipf = 1.0 / (np.arange(len(members)) + 10.0) ** 0.8
        frequencies[members] = total * zipf / zipf.sum()
    return frequencies
