"""Render HTML pages from templates/, and the pieces that sections of a page consist of.

Templates escape texts; `Markup`, which the pieces return, is inserted unchanged.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rag_clip.display import counted
from rag_clip.evaluation.results import Result
from rag_clip.evaluation.tiers import describe_tier, short_tier
from rag_clip.files.outputs import GENERATOR
from rag_clip.report.shown import Shown


def templates_of(package: str) -> Environment:
    """Return the templates of a package: texts are escaped, and a missing value is an error."""
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _templates() -> Environment:
    environment = templates_of("rag_clip.report")
    environment.filters["counted"] = counted
    environment.filters["short_tier"] = short_tier
    environment.filters["describe_tier"] = describe_tier
    environment.filters["plain_json"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    return environment


def render_page(template: str, verb: str, **values: Any) -> str:
    """Render a template with `values` as a page; `verb` is recorded in it, so that the file is recognised later."""
    return _templates().get_template(template).render(generator=Markup(GENERATOR.format(verb)), **values)


def piece(name: str, *values: Any, **named: Any) -> Markup:
    """Call the macro `name` of templates/pieces.html."""
    rendered: Markup = getattr(_templates().get_template("pieces.html").module, name)(*values, **named)
    return rendered


def paragraph(text: str, *, small: bool = False) -> Markup:
    """Return a text as a paragraph."""
    return piece("paragraph", text, small)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Return a table with these headings and rows."""
    return piece("table", heads, rows)


def figure(svg: str, name: str) -> Markup:
    """Return an SVG as an image; not as part of the page, so that ids of two figures cannot collide."""
    return piece("figure", base64.b64encode(svg.encode()).decode(), name)


def key(runs: Sequence[Shown]) -> Markup:
    """Return the colours of runs, for all charts below; nothing for a single run."""
    return piece("key", runs) if len(runs) > 1 else Markup()


def section(title: str, text: str, content: Markup) -> Markup:
    """Return a section with a title and a paragraph on how to read its content."""
    return piece("section", title, text, content)


def name_of(*results: Result) -> Markup:
    """Return the name of a run with its tier, or with all tiers that it has on several tasks."""
    return piece("name_of", results)


def folded(title: str, content: Markup, *, when: bool = True) -> Markup:
    """Return a piece collapsed under a title; unchanged if not `when`."""
    return piece("folded", title, content) if when else content
