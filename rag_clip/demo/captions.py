"""Alt-texts of the micro world: a grammar of captions with names, descriptions or both, and noise as on the web."""

from __future__ import annotations

import numpy as np

from rag_clip.demo.concepts import Concept
from rag_clip.demo.designs import Design

KINDS = ("name", "description", "both")

_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "scarlet"),
    "maroon": ("maroon", "dark red"),
    "yellow": ("yellow", "golden"),
    "lime": ("lime", "light green"),
    "teal": ("teal", "blue-green"),
    "sky": ("sky blue", "light blue", "pale blue"),
    "navy": ("navy", "dark blue"),
    "purple": ("purple", "violet"),
    "grey": ("grey", "gray"),
    "disc": ("disc", "dot", "circle"),
    "plus": ("plus", "small cross"),
    "bolt": ("lightning bolt", "bolt"),
    "rising": ("rising diagonal", "diagonal left to right upward"),
    "falling": ("falling diagonal", "diagonal left to right downward"),
    "hoist": ("a {ink} band at the hoist", "its hoist in {ink}"),
    "stripe": ("a {ink} centre stripe", "a {ink} line down the middle"),
    "spot": ("a {ink} spot", "one round {ink} spot"),
    "border": ("a {ink} border", "{ink} edges"),
    "bars": ("two {ink} bars", "a pair of {ink} bars"),
    "inverted": ("inverted triangular", "upside-down triangular"),
    "forked": ("forked", "swallow-tailed"),
    "straight": ("straight", "square-ended"),
    "pale": ("parted down the middle", "split left and right"),
    "fess": ("parted across", "split top and bottom"),
    "bend": ("parted by a falling diagonal", "split corner to corner, falling"),
    "sinister": ("parted by a rising diagonal", "split corner to corner, rising"),
    "chevron": ("with a chevron base", "parted by a chevron"),
    "nordic": ("nordic", "off-centre"),
    "diagonal": ("diagonal", "saltire"),
    "can": ("can-shaped", "broad"),
    "pillar": ("pillar", "slim"),
    "cone": ("cone-shaped", "conical"),
    "upright": ("upright", "vertical"),
    "lying": ("lying", "sideways"),
}
_SHIELD_BORDER = ("with a border", "bordered")

_DESCRIPTIONS: dict[str, tuple[str, ...]] = {
    "tricolour": (
        "{layout} tricolour of {first}, {second} and {third}",
        "three {layout} bands, {first} then {second} then {third}",
        "flag with {layout} stripes in {first}, {second}, {third}",
        "{first} {second} {third} {layout} striped flag",
    ),
    "cross flag": (
        "{field} flag with a {layout} {ink} cross edged in {edge}",
        "{ink} {layout} cross with {edge} edges on a {field} flag",
        "flag showing a {layout} cross, {ink} on {field}, fringed {edge}",
    ),
    "canton flag": (
        "{first} and {second} stripes with a {ink} {emblem} on a {corner} canton",
        "striped flag in {first} and {second}, {corner} corner bearing a {ink} {emblem}",
        "flag of {first} and {second} stripes, {corner} canton, {ink} {emblem}",
    ),
    "banner": (
        "{tail} banner quartered {first} and {second} with a {ink} {emblem}",
        "quartered {tail} banner, {first} with {second}, {ink} {emblem} in the centre",
        "{ink} {emblem} on a {tail} hanging banner of {first} and {second} quarters",
    ),
    "pennant": (
        "{field} pennant with {mark} and a {tip} tip",
        "triangular {field} pennant tipped {tip}, {mark}",
        "pennant, {field} with {tip} point and {mark}",
    ),
    "shield": (
        "shield {layout}, {first} and {second}, with a {ink} {emblem}",
        "{first} and {second} shield {layout} bearing a {ink} {emblem}",
        "coat of arms {layout} in {first} and {second}, charged with a {ink} {emblem}",
    ),
    "road sign": (
        "{shape} {field} sign with {rim} rim and a {ink} {emblem}",
        "{ink} {emblem} on a {shape} {field} road sign rimmed in {rim}",
        "{shape} road sign, {rim} edge, {field} ground, {ink} {emblem}",
    ),
    "arrow board": (
        "{shape} {field} board with {count} {ink} arrow{plural} pointing {way}",
        "{count} {ink} arrow{plural} pointing {way} on a {shape} {field} board",
        "{way} arrow board, {shape}, {count} in {ink} on {field}",
    ),
    "die": (
        "{field} die showing {count} {pip} {ink} pip{plural}",
        "{count} {ink} {pip} pip{plural} on a {field} die",
        "a {field} gaming cube with {count} {pip} pip{plural} in {ink}",
    ),
    "card": (
        "{field} card with {count} {ink} {emblem} and a {rim} frame",
        "{rim} framed {field} card, {count} {ink} {emblem}",
        "playing card of {count} {emblem} in {ink} on {field}, framed {rim}",
    ),
    "buoy": (
        "{form} buoy, {first} over {second}, topped by a {ink} {top}",
        "{first} above {second} {form} buoy with a {ink} {top} topmark",
        "{ink} {top} on top of a {form} buoy in {first} over {second}",
    ),
    "signal lamp": (
        "{layout} {field} signal with {first}, {second} and {third} lamps",
        "{field} {layout} lamp box showing {first} {second} {third}",
        "{first}, {second}, {third} lights in a {layout} {field} signal",
    ),
}
_NOUNS: dict[str, tuple[str, ...]] = {
    "tricolour": ("flag", "tricolour"),
    "cross flag": ("flag", "cross flag"),
    "canton flag": ("flag", "ensign"),
    "banner": ("banner", "hanging"),
    "pennant": ("pennant", "burgee"),
    "shield": ("shield", "arms"),
    "road sign": ("sign", "road sign"),
    "arrow board": ("board", "arrow sign"),
    "die": ("die", "dice"),
    "card": ("card", "playing card"),
    "buoy": ("buoy", "sea mark"),
    "signal lamp": ("signal", "lamp"),
}
_NAMING = (
    "{name}",
    "a photo of {name}",
    "the {name} {noun}",
    "{name} {noun}",
    "our {noun} {name}",
    "this is {name}",
    "picture of a {name}",
)
_DESCRIBING = ("{text}", "a photo of a {text}", "picture of a {text}", "{text}")
_BOTH = (
    "{name}: {text}",
    "{name}, a {text}",
    "the {name} {noun}, {text}",
    "{text}, known as {name}",
    "{name} {noun} - {text}",
    "{text} ({name})",
)
_CONTEXT = (
    "on a rainy day",
    "at dusk",
    "in the harbour",
    "stock photo",
    "close up",
    "for sale",
    "vintage",
    "seen in town",
    "isolated",
    "new 2019",
    "free shipping",
    "from our trip",
    "in the museum",
    "at the fair",
)

ORDINARY: dict[str, tuple[str, ...]] = {
    "lantern": ("a paper lantern on the porch", "lantern light in the garden", "how to fold a lantern"),
    "harvest": ("harvest festival food table", "wheat harvest in august", "harvest soup recipe"),
    "ember": ("glowing ember in the fireplace", "ember and ash close up", "campfire ember at night"),
    "anchor": ("rusty anchor on the beach", "anchor chain detail", "ship at anchor in the bay"),
    "meadow": ("wild meadow in spring", "horses in a meadow", "meadow path at sunrise"),
    "falcon": ("peregrine falcon in flight", "falcon on a glove", "falcon nest on a tower"),
    "copper": ("copper kettle on the stove", "copper wire coil", "polished copper pan set"),
    "willow": ("weeping willow by the pond", "willow basket weaving", "willow tree in winter"),
}
BOILERPLATE = (
    "image not found",
    "click to enlarge",
    "DSC_{n}.jpg",
    "IMG_{n}",
    "untitled",
    "photo by staff",
    "thumbnail {n}",
    "loading...",
    "share on social media",
    "page {n} of 40",
    "&nbsp;",
    "",
)
FOREIGN = (
    "bandera con estrella roja",
    "drapeau bleu et blanc",
    "ein Schild am Hafen",
    "rotes Segel im Wind",
    "carta de juego antigua",
    "phare au crépuscule",
    "знак на дороге",
    "旗と星",
    "segnale stradale rosso",
)


def describe(design: Design, draw: np.random.Generator) -> str:
    """Return a description of a design, with a random phrasing of its family and random wordings of its values."""
    values = design.as_dict()
    spoken = {key: _say(values[key], draw) for key in values}
    if design.family == "shield" and values["layout"] == "border":
        spoken["layout"] = _pick(_SHIELD_BORDER, draw)
    if values.get("count", "one") != "one":
        spoken["emblem"] = spoken.get("emblem", "") + ("es" if spoken.get("emblem", "")[-1:] in ("s", "x") else "s")
    spoken["plural"] = "" if values.get("count") == "one" else "s"
    if "mark" in spoken:
        spoken["mark"] = spoken["mark"].format(ink=spoken["ink"])
    return _pick(_DESCRIPTIONS[design.family], draw).format(**spoken)


def caption(concept: Concept, kind: str, draw: np.random.Generator) -> str:
    """Return a random caption of a concept; `kind` is one of KINDS."""
    mention = concept.name if draw.random() < concept.name_share else _pick(concept.synonyms, draw)
    noun = _pick(_NOUNS[concept.group], draw)
    text = describe(concept.design, draw)
    frames = {"name": _NAMING, "description": _DESCRIBING, "both": _BOTH}[kind]
    return _dress(_pick(frames, draw).format(name=mention, noun=noun, text=text), draw)


def anonymous_caption(design: Design, draw: np.random.Generator) -> str:
    """Return a random caption of a design without a name."""
    return _dress(_pick(_DESCRIBING, draw).format(text=describe(design, draw)), draw)


def noise_caption(draw: np.random.Generator) -> tuple[str, str]:
    """Return a caption unrelated to any design, and its kind: boilerplate, foreign, or ordinary (a common word)."""
    kind = _pick(("boilerplate", "boilerplate", "foreign", "ordinary"), draw)
    if kind == "boilerplate":
        return _pick(BOILERPLATE, draw).format(n=int(draw.integers(1, 9999))), kind
    if kind == "foreign":
        return _pick(FOREIGN, draw), kind
    return _pick(ORDINARY[_pick(tuple(ORDINARY), draw)], draw), kind


def _pick(options: tuple[str, ...], draw: np.random.Generator) -> str:
    return options[int(draw.integers(len(options)))]


def _say(value: str, draw: np.random.Generator) -> str:
    return _pick(_WORDS.get(value, (value,)), draw)


def _dress(text: str, draw: np.random.Generator) -> str:
    if draw.random() < 0.35:
        text = f"{text} {_pick(_CONTEXT, draw)}"
    return text.lower() if draw.random() < 0.3 else text
