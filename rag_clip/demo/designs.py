"""The designs of the micro world: families of flags, signs and signals, and their attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 30, 38),
    "maroon": (112, 20, 36),
    "orange": (240, 130, 25),
    "yellow": (248, 212, 40),
    "green": (20, 130, 60),
    "lime": (150, 210, 50),
    "teal": (20, 140, 145),
    "sky": (110, 190, 235),
    "blue": (30, 80, 190),
    "navy": (18, 28, 85),
    "purple": (115, 45, 140),
    "pink": (240, 140, 175),
    "brown": (120, 75, 40),
    "white": (245, 245, 242),
    "black": (22, 22, 24),
    "grey": (140, 143, 148),
}
EMBLEMS = (
    "star",
    "crescent",
    "disc",
    "ring",
    "diamond",
    "triangle",
    "square",
    "plus",
    "heart",
    "bolt",
    "hexagon",
    "hourglass",
)
_COLOUR = tuple(COLOURS)
CONTRAST = 100.0


@dataclass(frozen=True, slots=True)
class Family:
    """One superclass: the attributes of its designs with their values, and the pairs of colours that must differ."""

    name: str
    attributes: dict[str, tuple[str, ...]]
    differ: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Design:
    """The name of a family, and one value for each of its attributes, in the family's order."""

    family: str
    values: tuple[str, ...]

    def as_dict(self) -> dict[str, str]:
        """Return the values by attribute."""
        return dict(zip(FAMILIES[self.family].attributes, self.values, strict=True))


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "tricolour",
            {
                "layout": ("horizontal", "vertical", "rising", "falling"),
                "first": _COLOUR,
                "second": _COLOUR,
                "third": _COLOUR,
            },
            (("first", "second"), ("second", "third"), ("first", "third")),
        ),
        Family(
            "cross flag",
            {"layout": ("upright", "nordic", "diagonal"), "field": _COLOUR, "ink": _COLOUR, "edge": _COLOUR},
            (("field", "ink"), ("ink", "edge"), ("field", "edge")),
        ),
        Family(
            "canton flag",
            {"first": _COLOUR, "second": _COLOUR, "corner": _COLOUR, "emblem": EMBLEMS, "ink": _COLOUR},
            (("first", "second"), ("corner", "ink"), ("corner", "first"), ("corner", "second")),
        ),
        Family(
            "banner",
            {
                "tail": ("straight", "forked"),
                "first": _COLOUR,
                "second": _COLOUR,
                "emblem": EMBLEMS,
                "ink": _COLOUR,
            },
            (("first", "second"), ("first", "ink"), ("second", "ink")),
        ),
        Family(
            "pennant",
            {
                "field": _COLOUR,
                "mark": ("hoist", "stripe", "spot", "border", "bars"),
                "ink": _COLOUR,
                "tip": _COLOUR,
            },
            (("field", "ink"), ("field", "tip")),
        ),
        Family(
            "shield",
            {
                "layout": ("pale", "fess", "bend", "sinister", "chevron", "border"),
                "first": _COLOUR,
                "second": _COLOUR,
                "emblem": EMBLEMS,
                "ink": _COLOUR,
            },
            (("first", "second"), ("first", "ink"), ("second", "ink")),
        ),
        Family(
            "road sign",
            {
                "shape": ("triangular", "inverted", "round", "octagonal", "diamond", "square"),
                "field": _COLOUR,
                "rim": _COLOUR,
                "emblem": EMBLEMS,
                "ink": _COLOUR,
            },
            (("field", "rim"), ("field", "ink")),
        ),
        Family(
            "arrow board",
            {
                "way": ("up", "down", "left", "right"),
                "count": ("one", "two", "three"),
                "shape": ("square", "round"),
                "field": _COLOUR,
                "ink": _COLOUR,
            },
            (("field", "ink"),),
        ),
        Family(
            "die",
            {
                "count": ("one", "two", "three", "four", "five", "six"),
                "pip": ("round", "square", "diamond"),
                "field": _COLOUR,
                "ink": _COLOUR,
            },
            (("field", "ink"),),
        ),
        Family(
            "card",
            {
                "count": ("one", "two", "three", "four", "five"),
                "emblem": EMBLEMS,
                "ink": _COLOUR,
                "rim": _COLOUR,
                "field": ("white", "black", "yellow", "grey"),
            },
            (("field", "ink"), ("field", "rim")),
        ),
        Family(
            "buoy",
            {
                "form": ("can", "pillar", "cone"),
                "first": _COLOUR,
                "second": _COLOUR,
                "top": ("ball", "cross", "box", "flag"),
                "ink": _COLOUR,
            },
            (("first", "second"),),
        ),
        Family(
            "signal lamp",
            {
                "layout": ("upright", "lying"),
                "first": _COLOUR,
                "second": _COLOUR,
                "third": _COLOUR,
                "field": _COLOUR,
            },
            (("first", "second"), ("second", "third"), ("field", "first"), ("field", "second"), ("field", "third")),
        ),
    )
}


def is_valid(design: Design) -> bool:
    """Return whether the colours that must differ are at least CONTRAST apart in RGB."""
    values = design.as_dict()
    return all(_distance(values[a], values[b]) >= CONTRAST for a, b in FAMILIES[design.family].differ)


def _distance(first: str, second: str) -> float:
    return math.dist(COLOURS[first], COLOURS[second])


def sample_design(family: str, generator: np.random.Generator) -> Design:
    """Return a valid design with uniformly random attributes."""
    while True:
        values = tuple(_pick(options, generator) for options in FAMILIES[family].attributes.values())
        if is_valid(design := Design(family, values)):
            return design


def vary_design(design: Design, generator: np.random.Generator) -> Design:
    """Return a valid design that differs in one random attribute, such as the layout, a colour or the emblem."""
    attributes = list(FAMILIES[design.family].attributes.values())
    while True:
        index = int(generator.integers(len(attributes)))
        value = _pick(attributes[index], generator)
        varied = Design(design.family, (*design.values[:index], value, *design.values[index + 1 :]))
        if varied != design and is_valid(varied):
            return varied


def _pick(options: Sequence[str], generator: np.random.Generator) -> str:
    """Return a uniformly random option: what `generator.choice` draws, in a sixth of the time."""
    return options[int(generator.integers(len(options)))]
