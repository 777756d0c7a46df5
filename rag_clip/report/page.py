"""HTML of the pages from the files in templates/, and the pieces that sections of a page are put together from.

Texts are escaped where they are put in; `Markup`, which the pieces return, stays as it is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rag_clip.evaluation.results import Result
from rag_clip.files.outputs import GENERATOR


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("rag_clip.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["plain_json"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    return found


def render_page(template: str, verb: str, **values: Any) -> str:
    """Return a whole page of `verb`, by which its file is known again; `values` are those of the template."""
    return _templates().get_template(template).render(generator=Markup(GENERATOR.format(verb)), **values)


def piece(name: str, *values: Any, **named: Any) -> Markup:
    """Return the macro `name` of templates/pieces.html, filled."""
    made: Markup = getattr(_templates().get_template("pieces.html").module, name)(*values, **named)
    return made


def paragraph(text: str, *, small: bool = False) -> Markup:
    """Return a text as a paragraph."""
    return piece("paragraph", text, small)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Return a table of texts."""
    return piece("table", heads, rows)


def figure(svg: str, name: str) -> Markup:
    """Return an SVG as an image in the page; apart from it, so that the ids of two figures cannot meet."""
    return piece("figure", base64.b64encode(svg.encode()).decode(), name)


def section(title: str, text: str, content: Markup) -> Markup:
    """Return a titled piece with a paragraph that says how to read it."""
    return piece("section", title, text, content)


def name_of(*results: Result) -> Markup:
    """Return the name of a run with its tier, or those that it has on several tasks."""
    return piece("name_of", results)


def folded(title: str, content: Markup, *, when: bool = True) -> Markup:
    """Return a piece folded up under a title where it is long, as it is otherwise."""
    return piece("folded", title, content) if when else content
