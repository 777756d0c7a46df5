"""The page of all classes: what it holds, that no text of it can act, and what it does in a browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import rag_clip
from inputs.command_line import run
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.files.outputs import made_by
from rag_clip.prompts.templates import template_prompts
from rag_clip.report.explore import explore_page
from rag_clip.testing import ToyEncoder

EVIL = "</script><img src=x onerror=alert(1)> & 'q' \u2028 <!--"
ENCODER = ToyEncoder(16)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


def mixed(names: tuple[str, ...], texts: int = 2) -> Prompts:
    groups = tuple(
        (
            PromptText(f"a photo of {name}", 0.75),
            *(PromptText(f"{name} seen {n}", 0.25 / texts, role="context", source="forum") for n in range(texts)),
        )
        for name in names
    )
    return Prompts(LabelSet(names), groups, {"method": "default", "index": "captions"})


def test_shares_sum_to_one_and_nearest_classes_are_those_by_cosine() -> None:
    prompts = mixed(("cat", "dog", "owl", "cow"))
    data = data_of(explore_page(prompts, ENCODER, nearest=2))
    weights = zero_shot(prompts, ENCODER).weights.double()
    cosines = weights @ weights.T
    for row, found in enumerate(data["classes"]):
        assert found["name"] == prompts.labels.names[row]
        assert sum(share for _, share, *_ in found["texts"]) == pytest.approx(1, abs=2e-4)
        assert next(data["texts"][text] for text, *_ in found["texts"]) == f"a photo of {found['name']}"
        nearest = (cosines[row] - 2 * torch.eye(4)[row]).argsort(descending=True)[:2].tolist()
        assert found["near"] == [[other, round(float(cosines[row, other]), 4)] for other in nearest]
        risk = 1 - float((ENCODER.scale * cosines[row]).softmax(0)[row])
        assert found["risk"] == pytest.approx(risk, abs=1e-4)


def test_no_name_and_no_text_can_end_the_data_or_become_an_element() -> None:
    page = explore_page(mixed((EVIL, "dog")), ENCODER)
    assert data_of(page)["classes"][0]["name"] == EVIL
    assert (page.count("</script>"), "<img" in page, "onerror=alert" in page.split("<main")[0]) == (2, False, False)


def test_a_class_alone_has_no_nearest_and_no_risk() -> None:
    (found,) = data_of(explore_page(template_prompts(LabelSet(("cat",))), ENCODER))["classes"]
    assert (found["near"], found["risk"]) == ([], 0.0)


def test_a_thousand_classes_are_a_page_that_quotes_each_text_once() -> None:
    names = tuple(f"class {row}" for row in range(1000))
    groups = tuple((PromptText(f"a {name}", 0.5), PromptText("a caption that all have", 0.5)) for name in names)
    page = explore_page(Prompts(LabelSet(names), groups, {}), ENCODER)
    assert page.count("a caption that all have") == 1
    assert len(page.encode()) < 400_000


def test_enhance_writes_the_page_and_replaces_only_its_own(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("kite\nflag\n")
    command = ["enhance", "labels.txt", "--recipe", "templates", "--model", "demo", "-o", "prompts.parquet", "--html"]
    for _ in range(2):
        code, said, errors = run(*command, "classes.html", folder=tmp_path)
        assert (code, "page to explore: classes.html" in said) == (0, True), errors
    assert made_by(tmp_path / "classes.html") == "enhance"
    code, _, errors = run(*command, "classes.txt", folder=tmp_path)
    assert (code, "classes.txt has the suffix '.txt'; a page is an .html file" in errors) == (1, True)
    page = rag_clip.explore_prompts(tmp_path / "prompts.parquet", output=tmp_path / "python.html")
    assert data_of(page.read_text())["classes"][1]["name"] == "flag"


def test_in_a_browser_classes_are_found_by_a_word_of_their_texts_and_opened_by_a_neighbour(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a browser")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs a browser")
    (page_file := tmp_path / "page.html").write_text(explore_page(mixed((EVIL, "dog", "owl")), ENCODER))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.goto(f"file://{page_file}#dog")
        assert page.locator("details[open] summary b").all_inner_texts() == ["dog"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.fill("#search", "owl seen")
        assert page.locator("summary:visible b").all_inner_texts() == ["owl"]
        assert page.inner_text("#count") == "1 of 3 classes"
        page.locator("summary:visible").click()
        assert page.locator("details[open]:visible mark").first.inner_text() == "owl"
        page.locator("details[open]:visible button", has_text="script").click()
        assert page.locator("img").count() == 0
        assert EVIL.split()[0] in page.locator("details[open] summary b").first.inner_text()
        browser.close()
    assert errors == []
