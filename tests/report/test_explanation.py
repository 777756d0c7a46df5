"""The page of an explanation: complete in itself, safe for any text, and with sums that are those of the numbers."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from rag_clip.classifiers.explain import explain_image, explain_label
from rag_clip.classifiers.patch_maps import HeatMap
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.report.explanation import write_page
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder(bias=-2.0)
CAPTION = PromptText("zorp is red <b>&", 0.5, "context", source="web", evidence="id-7", score=0.25, rank=3)
PROMPTS = Prompts(
    LabelSet(("zorp <i>", "عربي")),
    (
        (PromptText("a zorp", 0.25), PromptText("one zorp", 0.25), CAPTION),
        (PromptText("a blue thing", 1.0),),
    ),
)
RED = Image.new("RGB", (600, 400), "red")


class Rows(HTMLParser):
    """The text of each table row, cell by cell."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open += [tag] if tag not in ("meta", "img", "br") else []
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def rows(page: Path) -> list[list[str]]:
    parser = Rows()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    return parser.rows


def test_a_page_holds_the_picture_and_asks_for_nothing_else(tmp_path: Path):
    write_page(tmp_path / "a" / "page.html", image=explain_image(RED, PROMPTS, ENCODER), picture=RED)
    page = (tmp_path / "a" / "page.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [source.partition(",")[0] for source in sources] == ["data:image/png;base64"]
    shown = Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2])))
    assert (shown.size, shown.getpixel((10, 10))) == ((384, 256), (255, 0, 0))
    assert RED.size == (600, 400)


def test_rows_of_each_class_and_the_bias_add_up_to_its_logit(tmp_path: Path):
    found = explain_image(RED, PROMPTS, ENCODER)
    write_page(tmp_path / "page.html", image=found)
    parts: list[list[list[str]]] = []
    for row in rows(tmp_path / "page.html"):
        if row[-1] == "text":
            parts.append([])
        parts[-1].append(row)
    assert len(parts) == 2
    for effect, (_, *texts, last) in zip((found.winner, found.rival), parts, strict=True):
        assert last[1:] == [
            f"{sum(text.lift for text in effect.texts):+.4f}",
            f"{effect.logit:.4f}",
            "",
            "sum",
        ]
        assert sum(float(row[2]) for row in texts) == pytest.approx(effect.logit, abs=3e-4)


def test_texts_beyond_the_count_share_a_row(tmp_path: Path):
    found = explain_image(RED, PROMPTS, ENCODER)
    write_page(tmp_path / "page.html", image=found, count=1)
    rest = found.winner.texts[1:]
    expected = ["", f"{sum(text.lift for text in rest):+.4f}", f"{sum(text.contribution for text in rest):.4f}", ""]
    assert [row for row in rows(tmp_path / "page.html") if "other" in row[-1]] == [
        [*expected, "2 other texts together"]
    ]


def test_names_and_captions_are_shown_as_text_with_their_evidence(tmp_path: Path):
    write_page(tmp_path / "page.html", label=explain_label("zorp <i>", PROMPTS, ENCODER))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>What zorp &lt;i&gt; is made of</title>" in page
    assert '<span dir="auto">zorp is red &lt;b&gt;&amp;</span>' in page
    assert "<small>web, rank 3, score 0.250, id id-7, weight 0.5</small>" in page
    assert "<bdi>عربي</bdi>" in page


def test_the_page_of_a_label_lists_shares_and_competitors(tmp_path: Path):
    found = explain_label("zorp <i>", PROMPTS, ENCODER)
    write_page(tmp_path / "page.html", label=found)
    listed = rows(tmp_path / "page.html")
    assert [row[1:3] for row in listed[1:4]] == [
        [f"{text.share:.1%}", f"{text.prompt.weight:.4f}"] for text in found.texts
    ]
    other = found.competitors[0]
    change = f"{other.after - other.before:+.4f}"
    assert listed[-1] == ["", f"{other.before:.4f}", f"{other.after:.4f}", change, "عربي"]


def test_a_heat_map_lies_beside_the_picture_with_its_range(tmp_path: Path):
    heat = HeatMap("zorp <i>", torch.tensor([[0.1, 0.5], [0.1, 0.5]]), learned=False)
    write_page(tmp_path / "page.html", image=explain_image(RED, PROMPTS, ENCODER), picture=RED, heat=heat)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (
        "Where it is <bdi>zorp &lt;i&gt;</bdi>: cosines of the patches from 0.100 (blue) to 0.500 (red). These are"
        in page
    )
    sources = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert len(sources) == 2
    drawn = Image.open(io.BytesIO(base64.b64decode(sources[1])))
    assert drawn.size == (384, 256)
    left, right = drawn.getpixel((2, 100)), drawn.getpixel((380, 100))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert left[2] > left[0]
    assert right[0] > right[2]
    write_page(
        tmp_path / "learned.html",
        image=explain_image(RED, PROMPTS, ENCODER),
        picture=RED,
        heat=replace(heat, learned=True),
    )
    assert "raw patch tokens" not in (tmp_path / "learned.html").read_text(encoding="utf-8")
