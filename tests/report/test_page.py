"""The pieces of pages, and the templates that they come from."""

from __future__ import annotations

import re
from pathlib import Path

from markupsafe import Markup

import rag_clip.report
from rag_clip.files.outputs import made_by
from rag_clip.report.page import figure, folded, paragraph, piece, render_page, section, table

REPORT = Path(rag_clip.report.__file__).parent


def test_texts_are_escaped_and_pieces_are_not() -> None:
    assert paragraph('a < b & "c"') == "<p>a &lt; b &amp; &#34;c&#34;</p>"
    assert paragraph("a", small=True) == "<p class=small>a</p>"
    inner = table(["x<"], [["<i>", piece("strong", "<b>")]])
    rows = "<tr><th>x&lt;</th></tr><tr><td>&lt;i&gt;</td><td><b>&lt;b&gt;</b></td></tr>"
    assert inner == f"<div class=wide><table>{rows}</table></div>"
    assert section("T<", "t", inner) == f"<section class=part><h3>T&lt;</h3><p>t</p>{inner}</section>"
    assert folded("<", Markup("<i>")) == "<details><summary>&lt;</summary><i></details>"
    assert folded("<", Markup("<i>"), when=False) == "<i>"
    assert figure("<svg>", '"').startswith(
        '<figure class=chart><img alt="&#34;" src="data:image/svg+xml;base64,PHN2Zz4='
    )


def test_a_page_says_which_verb_wrote_it(tmp_path: Path) -> None:
    page = render_page("explore.html", "demo", title="<t>", facts="<f>", data=Markup("{}"))
    (tmp_path / "page.html").write_text(page)
    assert made_by(tmp_path / "page.html") == "demo"
    assert "<title>&lt;t&gt;</title>" in page
    assert "<p>&lt;f&gt;</p>" in page


def test_markup_is_written_in_templates_alone() -> None:
    tags = re.compile(r"</?(?:p|b|i|q|h\d|table|t[dhr]|div|span|small|figure|details|img|html)\b[^\n]*>")
    found = {path.name: tags.findall(path.read_text()) for path in REPORT.glob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}
