"""The pieces of the report's page: its style, and HTML of paragraphs, tables, figures and sections."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from rag_clip.evaluation.results import Result

STYLE = """:root{color-scheme:light}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;max-width:1120px;margin:0 auto 4rem;padding:0 1.2rem;
color:#1d2733;background:#fff}
header{border-bottom:1px solid #d5dce3;margin-bottom:1rem;padding-top:1.6rem}
header p,small,.note,.small{color:#5a6b7b}h1{margin:0;font-size:1.7rem}header p{margin:.2rem 0 .8rem}
h2{margin:2.4rem 0 .3rem;font-size:1.35rem}h3{margin:2rem 0 .1rem;font-size:1.08rem}h4{margin:1.2rem 0 .4rem}
p{margin:.4rem 0 .8rem;max-width:80ch}.small,.note{font-size:.87rem}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.8rem 0 .4rem;font-variant-numeric:tabular-nums}
td,th{padding:.34rem .45rem;text-align:right;border-bottom:1px solid #e3e8ed;vertical-align:top;white-space:nowrap}
td:first-child,th:first-child{text-align:left;padding-left:0;position:sticky;left:0;background:#fff}th{color:#5a6b7b;font-weight:500;font-size:.87rem}
td small{display:block;font-size:.72rem;line-height:1.3}
.tier{font-size:.72rem;font-weight:600;color:#3c5a78;background:#e8eff6;border-radius:4px;padding:.08rem .36rem;
white-space:nowrap}
figure.chart{margin:.6rem 0 1rem}figure.chart img{max-width:100%;height:auto}
details{border-top:1px solid #e3e8ed;padding:.55rem 0}summary{cursor:pointer;font-weight:600}
pre{font-size:.78rem;background:#f5f7f9;padding:.8rem;border-radius:6px;overflow-x:auto}
.examples{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:.8rem}
.example{display:flex;gap:.75rem;margin:0;border:1px solid #e3e8ed;border-radius:8px;padding:.6rem}
.example img,.gone{width:104px;height:104px;object-fit:contain;border-radius:4px;background:#f5f7f9;flex:none}
.gone{font-size:.75rem;color:#5a6b7b;text-align:center;line-height:104px}
figcaption{font-size:.84rem;line-height:1.35;min-width:0;overflow-wrap:anywhere}
figcaption b,figcaption span,figcaption q{display:block}.up{color:#1b7f3b}.down{color:#b3261e}
q{quotes:none;color:#5a6b7b;margin-top:.25rem;font-size:.79rem}"""


def paragraph(text: str, *, small: bool = False) -> str:
    """Return plain text as a paragraph."""
    return f"<p{' class=small' if small else ''}>{html.escape(text)}</p>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; `rows` are HTML, `heads` plain text."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>{lines}</table></div>"


def figure(svg: str, name: str) -> str:
    """Return an SVG as an image in the page; apart from it, so that the ids of two figures cannot meet."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<figure class=chart><img alt="{html.escape(name)}" src="data:image/svg+xml;base64,{data}"></figure>'


def section(title: str, text: str, content: str) -> str:
    """Return a titled piece with a paragraph that says how to read it."""
    return f"<h3>{html.escape(title)}</h3>{paragraph(text)}{content}"


def name_of(*results: Result) -> str:
    """Return the name of a run with its tier, or those that it has on several tasks, as HTML."""
    marks = "".join(f" <span class=tier>{tier}</span>" for tier in dict.fromkeys(one.tier for one in results))
    return html.escape(results[0].run) + marks


def folded(title: str, content: str, *, when: bool = True) -> str:
    """Return HTML folded up under a title where it is long, as it is otherwise."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>" if when else content
