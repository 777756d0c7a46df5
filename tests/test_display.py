"""What a prompt and a notebook show: one readable line, and tables of escaped cells."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import rag_clip
from rag_clip.data import LabelSet, Prompts, PromptText, SeveralLabels, Support
from rag_clip.display import counted, html_table, listed
from rag_clip.pipelines.running import Running

EVIL = "<b>red</b> & co"


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (1, "class", "1 class"),
        (0, "class", "0 classes"),
        (2, "text", "2 texts"),
        (2, "match", "2 matches"),
        (1, "query", "1 query"),
        (3, "query", "3 queries"),
        (2, "key", "2 keys"),
    ],
)
def test_nouns_are_singular_for_one(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said


def test_long_lists_end_in_how_many_more_there_are() -> None:
    assert listed("abcde") == "a, b, c, d, e"
    assert listed("abcdefg") == "a, b, c, d, e and 2 more"


def test_tables_escape_every_cell_and_end_after_ten_rows() -> None:
    rows = [{EVIL: EVIL, "n": number, "image": b"123", "none": None, "score": 0.5} for number in range(11)]
    shown = html_table(EVIL, rows)
    assert "<b>" not in shown
    assert shown.count("&lt;b&gt;red&lt;/b&gt; &amp; co") == 12
    assert (shown.count("<tr>"), shown.count("3 bytes"), shown.count("0.5000")) == (11, 10, 10)
    assert shown.endswith("</table><p>...</p>")
    assert html_table("nothing", []) == "<p>nothing</p><table><tr></tr></table>"


def prompts() -> Prompts:
    texts = ((PromptText(EVIL, 0.25), PromptText("a sea", 0.75, "context", "web", "id", 0.5, 0)), (PromptText("b", 1),))
    return Prompts(LabelSet(("sea", "sky")), texts, {"method": "repe"})


def test_labels_and_prompts_are_a_line_and_a_table() -> None:
    assert repr(LabelSet(("sea",))) == "LabelSet(1 class: sea)"
    assert repr(prompts()) == "Prompts(2 classes, 3 texts, method 'repe')"
    assert "&lt;b&gt;red" in prompts()._repr_html_()
    assert prompts().to_polars().rows() == [
        ("sea", EVIL, 0.25, "anchor", "template", "", None, None),
        ("sea", "a sea", 0.75, "context", "web", "id", 0.5, 0),
        ("sky", "b", 1.0, "anchor", "template", "", None, None),
    ]


def test_a_support_set_is_a_line_and_a_row_per_image() -> None:
    labels, marks = LabelSet(("sea", "sky", "sun")), torch.tensor([[True, True, False]])
    held = Support(labels, torch.eye(1), SeveralLabels(marks), torch.ones(1), ("shot",), (EVIL,), {"method": "shots"})
    assert repr(held) == "Support(1 image of 3 classes, 1 class without one, method 'shots')"
    assert held.to_polars().rows() == [(["sea", "sky"], 1.0, "shot", EVIL)]
    assert "<b>" not in held._repr_html_()


def test_encoders_are_a_line() -> None:
    assert repr(rag_clip.load_encoder("demo", device="cpu")) == "TwoTowers('demo', width 128, fp32 on cpu)"
    second = rag_clip.load_encoder("demo:second", device="cpu")
    assert repr(second) == f"VisionEncoder('demo:second', width {second.dim}, fp32 on cpu)"


def test_an_index_its_summary_and_its_hits_are_lines(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text(f"a red {EVIL} bird\n")
    made = rag_clip.build_index(tmp_path / "captions.txt", index=tmp_path / "index", encoder="demo")
    assert repr(made) == f"1 caption in {tmp_path / 'index'}: 1 added, 0 dropped of 1 read"
    with rag_clip.open_store(tmp_path / "index") as store:
        assert repr(store) == f"Store('{tmp_path / 'index'}', captions, encoder {store.card.encoder})"
    found = rag_clip.search(tmp_path / "index", "bird")
    assert repr(found) == f"1 hit in {tmp_path / 'index'} for 1 text"
    assert "<b>" not in found._repr_html_()
    assert "red &amp; co bird" in found._repr_html_()


def test_predictions_results_and_explanations_are_lines_and_tables(tmp_path: Path) -> None:
    stream = BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    table = pa.table({"image": [stream.getvalue()], "label": ["sea"], "note": [EVIL]})
    pq.write_table(table, tmp_path / "in.parquet")
    texts = rag_clip.enhance(["sea", "sky"], recipe="templates", encoder="demo")
    made = rag_clip.classify(pl.DataFrame(table), prompts=texts, output=tmp_path / "out.parquet", running=Running(0))
    assert repr(made) == f"{tmp_path / 'out.parquet'}: 1 row, 0 failed; 1 decoded, 0 from cached features"
    assert "<b>" not in made._repr_html_()
    assert "<th>note</th><th>predicted_label</th><th>predicted_score</th>" in made._repr_html_()
    assert "<th>image</th>" not in made._repr_html_()
    results = rag_clip.evaluate(tmp_path / "in.parquet", prompts={EVIL: texts}, running=Running(0))
    assert repr(results) == f"{results.output}: 1 run measured, 0 there already"
    assert "<th>task</th><th>run</th><th>accuracy</th>" in results._repr_html_()
    assert "<b>" not in results._repr_html_()
    why = rag_clip.explain(texts, "sea", image=stream.getvalue())
    assert repr(why).startswith("sea: 1 text and the image is s")
    assert why._repr_html_().startswith('<iframe srcdoc="&lt;!doctype html&gt;')
