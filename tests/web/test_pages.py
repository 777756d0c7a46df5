"""The pages without a browser: what they show, what their forms write, and how small they are."""

from __future__ import annotations

import csv
import html
import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from starlette.testclient import TestClient

from inputs.photographs import photographs
from inputs.served import NAMES, served_folder
from rag_clip.files.prompts import read_prompts
from rag_clip.web.app import create_app
from rag_clip.web.rows import Filter, predictions_of

HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served_folder(tmp_path_factory.mktemp("pages") / "folder")


@pytest.fixture(scope="module")
def client(folder: Path) -> Any:
    headers = {"accept": "text/html"}
    with TestClient(create_app(folder), base_url=HERE, headers=headers, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/", "/index?text=flag", "/prompts", "/predictions", "/why?file=photographs.parquet&row=0", "/runs"]
)
def test_every_screen_is_whole_and_small(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert len(answer.content) < 100_000
    assert answer.text.count("<h1>") == 1
    assert "</html>" in answer.text
    assert " style=" not in answer.text
    for picture in answer.text.split("<img")[1:]:
        assert ' alt="' in picture.partition(">")[0]


def test_an_edit_writes_a_new_file_and_leaves_the_old_one(client: Any, folder: Path) -> None:
    before = (folder / "prompts.parquet").read_bytes()
    form = {"file": "prompts.parquet", "label": NAMES[0], "remove": "0", "images": "photographs.parquet"}
    moved = client.post("/prompts/edit", data=form, follow_redirects=False)
    assert moved.status_code == 303
    assert (folder / "prompts.parquet").read_bytes() == before
    old, new = (read_prompts(folder / name) for name in ("prompts.parquet", "prompts-edited.parquet"))
    assert [text.text for text in new.texts[0]] == [text.text for text in old.texts[0][1:]]
    assert sum(text.weight for text in new.texts[0]) == pytest.approx(sum(text.weight for text in old.texts[0]))
    assert new.texts[1:] == old.texts[1:]
    assert new.provenance["edited"]["removed"] == [0]
    page = client.get(moved.headers["location"])
    assert "of 12 pictures changed" in page.text
    weights = {"file": "prompts.parquet", "label": NAMES[1], "weight-0": "0.9"}
    client.post("/prompts/edit", data=weights)
    assert read_prompts(folder / "prompts-edited-2.parquet").texts[1][0].weight > old.texts[1][0].weight
    every = {**form, "remove": [str(place) for place in range(len(old.texts[0]))]}
    for wrong, said in (
        (every, "no text of"),
        ({"file": "prompts.parquet", "label": NAMES[0]}, "nothing was changed"),
        ({**form, "remove": "99"}, "text 99 cannot"),
        ({**form, "label": "nobody"}, "there is no class"),
    ):
        answer = client.post("/prompts/edit", data=wrong)
        assert answer.status_code == 400
        assert said in answer.text
    assert not (folder / "prompts-edited-3.parquet").exists()


def test_without_a_text_the_decision_is_another(client: Any) -> None:
    whole = client.get("/why", params={"file": "photographs.parquet", "row": 0, "prompts": "prompts.parquet"})
    assert "without it" in whole.text
    without = client.get(
        "/why",
        params={
            "file": "photographs.parquet",
            "row": 0,
            "prompts": "prompts.parquet",
            "without": [f"{NAMES[0]}:0", f"{NAMES[0]}:1"],
        },
    )
    assert "Without 2 texts" in without.text
    wrong = client.get("/why", params={"file": "photographs.parquet", "row": 0, "without": "x"})
    assert (wrong.status_code, "does not name a text" in wrong.text) == (400, True)


def test_an_uploaded_picture_is_explained_and_searched_for(client: Any) -> None:
    for place in ("/why", "/index"):
        files = {"picture": ("x.jpg", photographs(1)[0])}
        answer = client.post("/upload", files=files, data={"to": place})
        assert answer.status_code == 200
        assert answer.url.path == place
        assert "upload=" in str(answer.url)
    assert client.post("/upload", files={"picture": ("x", b"no")}, data={"to": "/why"}).status_code == 400
    files = {"picture": ("x.jpg", photographs(1)[0])}
    assert client.post("/upload", files=files, data={"to": "//evil.example"}).status_code == 400
    assert client.get("/why", params={"upload": "0" * 32}).status_code == 400


def test_predictions_are_filtered_paged_and_corrected_without_scripts(client: Any, folder: Path) -> None:
    opened = predictions_of(folder / "predictions.parquet")
    pages = [opened.page(limit=5)]
    while pages[-1].next is not None:
        pages.append(opened.page(start=pages[-1].next, limit=5))
    assert [row["row"] for page in pages for row in page.rows] == list(range(12))
    label = opened.row(0)["label"]
    of_class = opened.page(only=Filter(label=label)).rows
    assert {row["label"] for row in of_class} == {label}
    assert len(opened.page(only=Filter(below=0.0)).rows) == 0
    rows = client.get("/predictions", params={"label": label, "file": "predictions.parquet", "format": "json"}).json()
    assert [row["row"] for row in rows] == [row["row"] for row in of_class]
    table = client.get("/predictions", params={"file": "predictions.parquet", "format": "csv"}).text
    assert len(list(csv.DictReader(io.StringIO(table)))) == 12
    form = {
        "file": "predictions.parquet",
        "row": "3",
        "label": NAMES[0],
        "back": "/predictions?file=predictions.parquet",
    }
    answer = client.post("/predictions/correct", data=form, follow_redirects=False)
    assert answer.headers["location"] == "/predictions?file=predictions.parquet#row-3"
    assert pq.read_table(folder / "predictions-corrections.parquet").to_pylist() == [{"row": 3, "label": NAMES[0]}]
    answer = client.post("/predictions/correct", data={**form, "back": "//evil.example"}, follow_redirects=False)
    assert answer.headers["location"].startswith("/predictions?")
    assert "corrected" in client.get("/predictions", params={"file": "predictions.parquet"}).text
    for wrong in ({"below": "x"}, {"start": -1}, {"changed": "on"}, {"file": "photographs.parquet"}):
        assert client.get("/predictions", params={"file": "predictions.parquet", **wrong}).status_code == 400


def test_an_index_shows_the_pictures_that_lie_in_the_folder(client: Any, folder: Path) -> None:
    (folder.parent / "outside.jpg").write_bytes(photographs(1)[0])
    page = client.get("/index", params={"name": "pictures"}).text
    assert "Some of them" in page
    shown = re.findall(r'<img [^>]*src="([^"]+)" alt="([^"]+)"', page)
    assert sorted((html.unescape(address), text) for address, text in shown) == [
        ("/image?file=pairs.parquet&row=0", f"a sign called {NAMES[0]}"),
        ("/image?file=signs%2Fone.jpg&row=0", f"a sign called {NAMES[1]}"),
    ]
    for address, _ in shown:
        answer = client.get(html.unescape(address))
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert page.count("a sign called") == 4 + len(shown)
    asked = {"name": "pictures", "file": "signs/one.jpg", "row": 0, "format": "json"}
    assert client.get("/index", params=asked).json()[0]["text"] == f"a sign called {NAMES[1]}"


def test_the_first_row_is_explained_as_the_others_are(client: Any) -> None:
    page = client.get("/predictions", params={"file": "predictions.parquet"}).text
    assert "/why?file=predictions.parquet&amp;row=0" in page
    why = client.get("/why", params={"file": "predictions.parquet", "row": 0, "prompts": "prompts.parquet"}).text
    links = re.findall(r'href="(/why[^"]+without=[^"]+)"', why)
    assert "Without 1 text" in client.get(html.unescape(links[0])).text


def test_a_picture_is_sent_once_and_never_from_elsewhere(client: Any, folder: Path) -> None:
    first = client.get("/image", params={"file": "photographs.parquet", "row": 11})
    assert first.headers["content-type"] == "image/jpeg"
    again = client.get(
        "/image",
        params={"file": "photographs.parquet", "row": 11},
        headers={"if-none-match": first.headers["etag"]},
    )
    assert (again.status_code, again.content) == (304, b"")
    outside = folder.parent / "outside.jpg"
    outside.write_bytes(photographs(1)[0])
    (folder / "inside.jpg").write_bytes(photographs(1)[0])
    paths = ["inside.jpg", str(outside)]
    pq.write_table(pa.table({"image": paths}), folder / "paths.parquet")
    found = [client.get("/image", params={"file": "paths.parquet", "row": row}).status_code for row in (0, 1, 2)]
    assert found == [200, 400, 400]
    (folder / "paths.parquet").unlink()


def test_two_results_are_compared_with_their_interval(client: Any) -> None:
    rows = client.get("/runs", params={"before": "before.parquet", "after": "after.parquet", "format": "json"}).json()
    assert len(rows) == 1
    assert rows[0]["low"] <= rows[0]["difference"] <= rows[0]["high"]
    assert rows[0]["after"] - rows[0]["before"] == pytest.approx(rows[0]["difference"])
    page = client.get("/runs", params={"before": "before.parquet", "after": "after.parquet"}).text
    assert "rag-clip evaluate --compare before.parquet after.parquet" in page
    assert "All runs" in page


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with TestClient(create_app(tmp_path), base_url=HERE, headers={"accept": "text/html"}) as client:
        assert "rag-clip demo" in client.get("/").text
        for path in ("/index", "/prompts", "/predictions", "/why", "/runs"):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "<code>rag-clip " in answer.text
        assert client.get("/nothing").status_code == 404
