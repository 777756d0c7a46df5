"""The screens in a real browser: keys, forms and links, console errors, widths, and accessibility where axe is given.

A browser is looked for as `chromium`; axe-core is that of the package axe-playwright-python. With SCREENSHOTS set to a
folder, every screen is drawn there at three widths and in both colour schemes.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

pytest.importorskip("fastapi", reason="needs the extra web")
pytest.importorskip("playwright", reason="needs a browser that playwright drives")

import uvicorn
from playwright import sync_api

from inputs.photographs import photographs
from inputs.served import NAMES, served_folder
from rag_clip.web.app import create_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")]
SCREENS = {
    "files": "/",
    "index": "/index?name=captions&text=flag",
    "pictures": "/index?name=pictures",
    "prompts": "/prompts?file=prompts.parquet&images=predictions.parquet",
    "predictions": "/predictions?file=predictions.parquet",
    "why": "/why?prompts=prompts.parquet&file=predictions.parquet&row=1",
    "compare": "/runs?before=before.parquet&after=after.parquet",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served_folder(tmp_path_factory.mktemp("browser") / "folder")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(folder), log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page whose console must stay without errors."""
    context = browser.new_context(base_url=address)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert said == []


def test_a_search_goes_on_from_a_result(page: Any) -> None:
    page.goto("/index")
    page.get_by_label("Text").fill("boats")
    page.get_by_role("button", name="Search", exact=True).click()
    assert "1 result for" in page.inner_text("main")
    page.get_by_role("link", name="two boats on the sea").click()
    assert page.get_by_label("Text").input_value() == "two boats on the sea"


def test_a_deleted_text_changes_the_preview(page: Any, folder: Path) -> None:
    page.goto(SCREENS["prompts"])
    assert page.locator("ul.grid > li").count() == 12
    page.get_by_label("remove text 1").check()
    page.get_by_label("remove text 2").check()
    page.get_by_role("button", name="Write to a new file").click()
    page.wait_for_url("**/prompts?*edited*")
    assert "of 12 pictures changed" in page.inner_text("main")
    assert page.get_by_label("remove text 2").count() == 0
    assert (folder / "prompts-edited.parquet").exists()
    assert page.locator("ul.grid > li").count() == 12


def test_ten_predictions_are_accepted_or_corrected_by_keyboard(page: Any, folder: Path) -> None:
    page.goto(SCREENS["predictions"])
    page.keyboard.press("j")
    right = {}
    for row in range(10):
        state = page.locator(f"#row-{row} .state")
        if row % 2:
            page.keyboard.press("c")
            page.keyboard.type(NAMES[row % 6])
            page.keyboard.press("Enter")
            right[row] = NAMES[row % 6]
        else:
            right[row] = page.locator(f"#row-{row} input[name=label]").input_value()
            page.keyboard.press("a")
        sync_api.expect(state).to_have_text(re.compile("accepted|corrected" if row % 2 else "accepted"))
        sync_api.expect(page.locator(f"#row-{row + 1}")).to_be_focused()
    table = pq.read_table(folder / "predictions-corrections.parquet")
    assert dict(zip(table["row"].to_pylist(), table["label"].to_pylist(), strict=True)) == right


def test_an_uploaded_picture_is_explained_and_a_text_left_out(page: Any, tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(photographs(2)[1])
    page.goto("/why?prompts=prompts.parquet")
    page.get_by_label("Picture").set_input_files(tmp_path / "picture.jpg")
    page.get_by_role("button", name="Explain it").click()
    page.wait_for_url("**upload=*")
    assert "Why this is" in page.inner_text("h1")
    page.get_by_role("link", name="without it").first.click()
    assert "Without 1 text:" in page.inner_text("main")


def test_two_runs_are_compared(page: Any) -> None:
    page.goto("/runs")
    page.locator("select[name=before]").select_option("before.parquet")
    page.locator("select[name=after]").select_option("after.parquet")
    page.get_by_role("button", name="Compare").click()
    assert "Difference" in page.inner_text("table >> nth=0")


@pytest.mark.parametrize("screen", SCREENS)
def test_no_screen_is_wider_than_its_window(page: Any, screen: str) -> None:
    for width in (360, 900, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(SCREENS[screen], wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if folder := os.environ.get("SCREENSHOTS"):
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=Path(folder) / f"{screen}-{width}-{scheme}.png")


@pytest.mark.parametrize("screen", SCREENS)
def test_no_screen_breaks_rules_of_accessibility(browser: Any, address: str, screen: str) -> None:
    axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    context = browser.new_context(base_url=address, bypass_csp=True)
    page = context.new_page()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(SCREENS[screen])
        page.add_script_tag(content=axe)
        found = page.evaluate("axe.run()")["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    context.close()


def test_every_screen_works_without_scripts(browser: Any, address: str) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto(SCREENS["predictions"])
    page.locator("#row-11 input[name=label]").fill(NAMES[0])
    page.locator("#row-11 button").click()
    assert page.url.endswith("#row-11")
    assert page.locator("#row-11 .state").inner_text() in ("accepted", "corrected")
    context.close()


def test_names_of_files_reach_the_page_whole(page: Any) -> None:
    page.goto(f"/prompts?file={quote('odd <b>name.json')}")
    assert "odd <b>name.json" in page.inner_text("h1")
