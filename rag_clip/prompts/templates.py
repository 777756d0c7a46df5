"""Class names in templates: the texts that every other method starts from.

Radford et al., 2021 (arXiv 2103.00020): for templates T_1..T_J the texts of class c are T_j(name_c), each of weight
1/J. The single template is the usual one; the other sets are in our wording. The general set covers the ways in which
an image may show an object; the sets of a domain state the kind of object, or how its images are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.words import spoken

SINGLE = ("a photo of a {}.",)
GENERAL = (
    "a photo of a {}.",
    "a picture of the {}.",
    "a close view of a {}.",
    "a {} seen from afar.",
    "a drawing of a {}.",
    "a blurred photo of a {}.",
    "several {} together.",
)
TEMPLATE_SETS: Mapping[str, tuple[str, ...]] = {
    "single": SINGLE,
    "general": GENERAL,
    "aerial": (
        "a satellite photo of a {}.",
        "an aerial image of a {}.",
        "a satellite image of the {}.",
        "a remote sensing image of a {}.",
        "an aerial image of many {}.",
    ),
    "textures": (
        "{} texture.",
        "a photo of a {} surface.",
        "a close view of something {}.",
        "a {} pattern.",
        "a thing that looks {}.",
    ),
    "pets": ("a photo of a {}, a breed of pet.", "a {} at home.", "a close view of a {}, a pet."),
    "birds": ("a photo of a {}, a species of bird.", "a {} on a branch.", "a {} in flight."),
    "flowers": ("a photo of a {}, a kind of flower.", "a close view of the petals of a {}.", "a {} in bloom."),
    "food": ("a photo of {}, a dish of food.", "a plate of {}.", "{}, ready to eat."),
    "aircraft": ("a photo of a {}, a model of aircraft.", "a {} on the runway.", "a {} in the air."),
    "cars": ("a photo of a {}, a model of car.", "a {} on the road.", "a {} parked, seen from the side."),
    "places": ("a photo of a {}.", "a photo taken at a {}.", "the view of a {}.", "inside a {}."),
    "actions": (
        "a photo of a person doing {}.",
        "a person during {}.",
        "people busy with {}.",
        "a moment from a video of {}.",
    ),
    "chinese": (
        "一张{}的照片。",
        "一幅{}的图片。",
        "{}的特写。",
        "从远处看到的{}。",
        "一幅{}的画。",
        "一张模糊的{}照片。",
        "许多{}在一起。",
    ),
}


def template_set(name: str) -> tuple[str, ...]:
    """Return a set of templates by name, one of `TEMPLATE_SETS`; raises ValueError for an unknown one."""
    if name not in TEMPLATE_SETS:
        raise ValueError(f"unknown template set {name!r}; known are {', '.join(TEMPLATE_SETS)}")
    return TEMPLATE_SETS[name]


def template_prompts(labels: LabelSet, *, templates: Sequence[str] | None = None) -> Prompts:
    """Fill every template with every class name; each class gets J anchors of weight 1/J.

    `templates` default to those of the label set, then to `SINGLE`. Only '{}' is replaced, so braces in a name are
    safe. Raises ValueError for a template without '{}'.
    """
    chosen = choose_templates(labels, templates)
    return Prompts(
        labels,
        tuple(tuple(PromptText(fill(template, name), 1 / len(chosen)) for template in chosen) for name in labels.names),
        {"encoder": {}, "method": "templates", "settings": {"templates": list(chosen)}, "index": ""},
    )


def choose_templates(labels: LabelSet, templates: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return `templates`, else those of the label set, else `SINGLE`; raises ValueError for one without '{}'."""
    if isinstance(templates, str):
        raise ValueError(f"templates is the text {templates!r}; give a list of templates")
    chosen = tuple(templates or labels.templates or SINGLE)
    for template in chosen:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no '{{}}'; put '{{}}' where the class name goes")
    return chosen


def fill(template: str, name: str) -> str:
    """Replace '{}' by a class name, without the id that distinguishes it from a class of the same name."""
    return template.replace("{}", spoken(name))
