"""Class names in templates: the texts every other method starts from.

Radford et al., 2021 (arXiv 2103.00020): for templates T_1..T_J the texts of class c are T_j(name_c), weighing 1/J each.
The single template is the field's usual one; the general set is ours, and covers how a picture may show a thing.
"""

from __future__ import annotations

from collections.abc import Sequence

from rag_clip.data import LabelSet, Prompts, PromptText

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


def template_prompts(labels: LabelSet, *, templates: Sequence[str] | None = None) -> Prompts:
    """Fill every template with every class name; each class gets J anchors of weight 1/J.

    `templates` given here come first, then those of the label set, then `SINGLE`. Only '{}' is replaced, so braces in
    a name are safe. Raises ValueError for a template without '{}'.
    """
    chosen = choose_templates(labels, templates)
    return Prompts(
        labels,
        tuple(tuple(PromptText(fill(template, name), 1 / len(chosen)) for template in chosen) for name in labels.names),
        {"encoder": {}, "method": "templates", "settings": {"templates": list(chosen)}, "index": ""},
    )


def choose_templates(labels: LabelSet, templates: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the templates given, or the label set's own, or `SINGLE`; each must hold '{}'."""
    if isinstance(templates, str):
        raise ValueError(f"templates is the text {templates!r}; give a list of templates")
    chosen = tuple(templates or labels.templates or SINGLE)
    for template in chosen:
        if "{}" not in template:
            raise ValueError(f"template {template!r} has no '{{}}'; put '{{}}' where the class name goes")
    return chosen


def fill(template: str, name: str) -> str:
    """Put a class name in the place of '{}'."""
    return template.replace("{}", name)
