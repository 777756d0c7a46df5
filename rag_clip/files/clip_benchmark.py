"""Prompts as the two JSON files of CLIP_benchmark (LAION): class names, and their templates, by the name of a data set.

CLIP_benchmark averages the unit vectors of the texts of a class, each with the same weight, and normalises the mean. So
only prompts that are averaged in this way can be written: anchors alone, of one weight within a class. Texts that are
the same templates of every name become a list with `{c}` for the name; other texts a list for each class.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rag_clip.data import Prompts, PromptText
from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.words import spoken

CLASSNAMES, TEMPLATES = "classnames.json", "templates.json"
HOLE = "{c}"


def write_clip_benchmark(prompts: Prompts, folder: Path, *, dataset: str) -> None:
    """Write `classnames.json` and `templates.json` into a folder, under the name of a data set.

    Raises ValueError, naming the class and the text, for prompts that CLIP_benchmark cannot average as they are meant.
    """
    check_equal_weights(prompts)
    names = [spoken(name) for name in prompts.labels.names]
    if repeated := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ValueError(f"two classes are both called {repeated!r}; CLIP_benchmark needs distinct names, rename one")
    texts = [[text.text for text in group] for group in prompts.texts]
    shared = shared_templates(names, texts)
    documents = {
        CLASSNAMES: {dataset: names},
        TEMPLATES: {dataset: dict(zip(names, texts, strict=True)) if shared is None else shared},
    }
    for name, document in documents.items():
        path = folder / name
        with disk_errors(path), replacing(path) as partial:
            partial.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def check_equal_weights(prompts: Prompts) -> None:
    """Raise ValueError unless the texts of each class are anchors of one weight, averaged as unit vectors."""
    advice = "export the class weights instead (.safetensors or .npz), or enhance with the recipe templates"
    if prompts.recorded.average != "vectors":
        raise ValueError(
            f"the prompts average {prompts.recorded.average}, and CLIP_benchmark averages vectors; {advice}"
        )
    for name, group in zip(prompts.labels.names, prompts.texts, strict=True):
        if context := next((text for text in group if text.role == "context"), None):
            raise ValueError(
                f"class {name!r} has the context {context.text[:60]!r}, which is mixed into its other texts, and "
                f"CLIP_benchmark only averages texts; {advice}"
            )
        if uneven := _uneven(group):
            raise ValueError(
                f"class {name!r} has texts of the weights {uneven[0]:.3g} and {uneven[1]:.3g}, and CLIP_benchmark "
                f"weights all texts equally; {advice}"
            )


def _uneven(group: Sequence[PromptText]) -> tuple[float, float] | None:
    weights = [text.weight for text in group]
    least, most = min(weights), max(weights)
    return (least, most) if most - least > 1e-6 * most else None


def shared_templates(names: Sequence[str], texts: Sequence[Sequence[str]]) -> list[str] | None:
    """Return the templates, with `{c}` for the name, that give every class its texts; None where there are none.

    A name may also occur in a template ("a photo of a photo"), so the templates are those of most classes.
    """
    found = Counter(
        tuple(text.replace("{", "{{").replace("}", "}}").replace(_braced(name), HOLE) for text in group)
        for name, group in zip(names, texts, strict=True)
    )
    templates = list(found.most_common(1)[0][0])
    filled = [[template.format(c=name) for template in templates] for name in names]
    return templates if filled == [list(group) for group in texts] and all(HOLE in each for each in templates) else None


def _braced(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")
