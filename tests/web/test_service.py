"""The REST endpoints: what they answer, what they refuse, and that nothing outside the folder is touched."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("fastapi", reason="needs the extra web")

from starlette.testclient import TestClient

from inputs.folders import ROOT
from inputs.photographs import photographs
from inputs.pictures import picture
from inputs.served import HOSTILE, NAMES, served_folder
from rag_clip.pipelines.support_corrections import support_from_corrections
from rag_clip.web.app import create_app
from rag_clip.web.screens import _table

HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served_folder(tmp_path_factory.mktemp("service") / "folder")


@pytest.fixture(scope="module")
def client(folder: Path) -> Any:
    with TestClient(create_app(folder), base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def wait(client: Any, job: dict[str, Any]) -> dict[str, Any]:
    end = time.monotonic() + 120
    while job["state"] in ("waiting", "running") and time.monotonic() < end:
        time.sleep(0.05)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    return job


def test_files_are_listed_by_what_they_are(client: Any) -> None:
    kinds = {each["name"]: each["kind"] for each in client.get("/v1/files").json()["files"]}
    assert kinds == {
        "after.parquet": "results",
        "bare.json": "prompts",
        "before.parquet": "results",
        "captions": "index",
        "hostile.parquet": "predictions",
        "odd <b>name.json": "prompts",
        "pairs.parquet": "table",
        "photographs.parquet": "table",
        "pictures": "index",
        "predictions.parquet": "predictions",
        "prompts.parquet": "prompts",
    }
    assert client.get("/v1/indexes").json() == {"indexes": ["captions", "pictures"]}
    assert client.get("/health").json()["status"] == "ok"


def test_search_by_text_picture_and_minus_folds_near_copies(client: Any) -> None:
    found = client.post("/v1/search", json={"index": "captions", "text": "red flag"}).json()["hits"]
    assert found[0]["text"].strip("!").lower() == "a red flag"
    assert found[0]["copies"] == 1
    assert len({hit["text"] for hit in found}) == len(found)
    image = base64.b64encode(photographs(1)[0]).decode()
    by_image = client.post("/v1/search", json={"index": "captions", "image": image, "limit": 2}).json()
    assert (len(by_image["hits"]), by_image["next"]) == (2, 2)
    after = client.post("/v1/search", json={"index": "captions", "image": image, "limit": 2, "cursor": 2}).json()
    assert not {hit["id"] for hit in after["hits"]} & {hit["id"] for hit in by_image["hits"]}
    plain = client.post("/v1/search", json={"index": "captions", "text": "flag", "mode": "dense"}).json()["hits"]
    less = client.post("/v1/search", json={"index": "captions", "text": "flag", "minus": "red"}).json()["hits"]
    places = [[hit["text"].strip("!").lower() for hit in hits].index("a red flag") for hits in (plain, less)]
    assert places[1] >= places[0]
    refused = client.post("/v1/search", json={"index": "captions", "image": "?"})
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "image is not base64; encode the bytes of an image file",
    )


def test_pictures_are_classified_as_the_verb_does(client: Any, folder: Path) -> None:
    files = [("images", (f"{row}.jpg", data)) for row, data in enumerate(photographs(6))]
    found = client.post("/v1/classify", params={"prompts": "prompts.parquet"}, files=files).json()["predictions"]
    table = pq.read_table(folder / "predictions.parquet")
    assert [each[0]["label"] for each in found] == table["predicted_label"].to_pylist()[:6]
    assert [each[0]["score"] for each in found] == pytest.approx(table["predicted_score"].to_pylist()[:6], abs=1e-5)
    assert sum(each["score"] for each in found[0]) <= 1.00001


def test_many_clients_at_once_get_their_own_answers(client: Any) -> None:
    data = photographs(6)

    def ask(number: int) -> str:
        files = [("images", ("x.jpg", data[number % 6]))]
        answer = client.post("/v1/classify", params={"prompts": "prompts.parquet"}, files=files)
        return str(answer.json()["predictions"][0][0]["label"])

    alone = [ask(number) for number in range(6)]
    before = client.app.app.state.shared.worker.batches
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(ask, range(50)))
    assert found == [alone[number % 6] for number in range(50)]
    assert client.app.app.state.shared.worker.batches - before < 50


def test_a_file_is_classified_in_a_job_whose_events_end(client: Any, folder: Path) -> None:
    asked = {"images": "photographs.parquet", "prompts": "bare.json"}
    job = client.post("/v1/classify/file", json=asked).json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert events[-1]["state"] == "done"
    assert events[-1]["result"] == {"predictions": "photographs-by-bare.parquet", "rows": 12, "failed": 0}
    assert (folder / "photographs-by-bare.parquet").exists()


def test_a_running_job_holds_up_no_question_to_the_model(client: Any, folder: Path) -> None:
    worker, may_end = client.app.app.state.shared.worker, threading.Event()
    job = worker.start("wait", lambda report: {"ended": may_end.wait(60)})
    picture = ("images", ("x.jpg", photographs(1)[0]))
    asked = {"prompts": "prompts.parquet", "images": "photographs.parquet", "row": 0}
    page = {"accept": "text/html"}
    answers = [
        client.post("/v1/classify", params={"prompts": "prompts.parquet"}, files=[picture]),
        client.post("/v1/search", json={"index": "captions", "text": "flag", "mode": "dense"}),
        client.post("/v1/explain", json=asked),
        client.get("/prompts", params={"file": "prompts.parquet"}, headers=page),
    ]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert job.state == "running"
    assert client.get("/health").json()["jobs"] == 1
    waiting = client.post("/v1/enhance", json={"labels": ["kite"], "recipe": "templates", "index": "captions"}).json()
    assert waiting["state"] == "waiting"
    may_end.set()
    made = wait(client, waiting)["result"]["prompts"]
    assert job.facts()["result"] == {"ended": True}
    (folder / made).unlink()


def test_requests_at_once_open_an_index_once(tmp_path: Path) -> None:
    with (
        TestClient(create_app(served_folder(tmp_path / "folder")), base_url=HERE) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = {"index": "captions", "text": "flag"}
        answers = list(pool.map(lambda _: client.post("/v1/search", json=asked).status_code, range(8)))
    assert answers == [200] * 8


def test_names_become_prompts_in_a_new_file(client: Any, folder: Path) -> None:
    asked = {"labels": ["kite", "boat"], "recipe": "templates", "index": "captions"}
    done = [wait(client, client.post("/v1/enhance", json=asked).json()) for _ in range(2)]
    assert [job["result"] for job in done] == [
        {"prompts": "prompts-2.parquet", "classes": 2},
        {"prompts": "prompts-3.parquet", "classes": 2},
    ]
    failed = wait(client, client.post("/v1/enhance", json={**asked, "recipe": "nothing"}).json())
    assert failed["state"] == "failed"
    assert "nothing" in failed["error"]
    for name in ("prompts-2.parquet", "prompts-3.parquet"):
        (folder / name).unlink()


def test_explanations_add_up(client: Any) -> None:
    asked = {"prompts": "prompts.parquet", "images": "photographs.parquet", "row": 1}
    found = client.post("/v1/explain", json=asked).json()["image"]
    lifts = [sum(text["lift"] for text in found[side]["texts"]) for side in ("winner", "rival")]
    assert lifts[0] - lifts[1] == pytest.approx(found["gap"], abs=1e-3)
    label = client.post("/v1/explain", json={"prompts": "prompts.parquet", "label": NAMES[0]}).json()["label"]
    assert sum(text["share"] for text in label["texts"]) == pytest.approx(1)


def test_corrections_are_evidence_for_the_next_run(client: Any, folder: Path, tmp_path: Path) -> None:
    for right, count in (({"0": NAMES[3]}, 1), ({"7": NAMES[2], "0": NAMES[1]}, 2)):
        answer = client.post("/v1/corrections", json={"predictions": "predictions.parquet", "labels": right})
        assert answer.json() == {"corrected": count}
    path = folder / "predictions-corrections.parquet"
    assert pq.read_table(path).to_pylist() == [{"row": 0, "label": NAMES[1]}, {"row": 7, "label": NAMES[2]}]
    summary = support_from_corrections(
        path,
        images=folder / "predictions.parquet",
        prompts=folder / "prompts.parquet",
        output=tmp_path / "support.parquet",
        encoder="demo",
    )
    assert (summary.images, summary.classes) == (2, 2)
    for wrong, said in (({"99": NAMES[0]}, "has no row 99"), ({"1": "nobody"}, "there is no class 'nobody'")):
        answer = client.post("/v1/corrections", json={"predictions": "predictions.parquet", "labels": wrong})
        assert answer.status_code == 400
        assert said in answer.json()["error"]
    path.write_text("mine")
    answer = client.post("/v1/corrections", json={"predictions": "predictions.parquet", "labels": {"1": NAMES[0]}})
    assert answer.status_code == 400
    assert path.read_text() == "mine"
    path.unlink()


@pytest.mark.parametrize(
    "name",
    ["../secret.json", "/etc/passwd", "link.json", "a/../../secret.json", "..", "\0", ".hidden.json", 300 * "x"],
)
def test_nothing_outside_the_folder_is_read(client: Any, folder: Path, name: str) -> None:
    secret = folder.parent / "secret.json"
    secret.write_text((folder / "bare.json").read_text())
    (folder / ".hidden.json").write_text((folder / "bare.json").read_text())
    if not (folder / "link.json").is_symlink():
        (folder / "link.json").symlink_to(secret)
    for answer in (
        client.post("/v1/explain", json={"prompts": name, "label": NAMES[0]}),
        client.get("/prompts", params={"file": name}),
        client.get("/image", params={"file": name, "row": 0}),
        client.get("/predictions", params={"file": name}),
        client.get("/runs", params={"before": name}),
        client.get("/index", params={"name": name}),
    ):
        assert answer.status_code in (404, 422)
        assert NAMES[0] not in answer.text


def test_pages_of_other_sites_and_other_hosts_are_refused(client: Any) -> None:
    asked = {"predictions": "predictions.parquet", "labels": {"0": NAMES[0]}}
    for headers, status in (
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example"}, 421),
        ({"origin": "null"}, 403),
    ):
        assert client.post("/v1/corrections", json=asked, headers=headers).status_code == status
    assert client.get("/", headers={"host": "evil.example:80"}).status_code == 421
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_a_token_is_needed_for_other_addresses(folder: Path) -> None:
    with pytest.raises(ValueError, match="needs a token"):
        create_app(folder, any_host=True)
    with TestClient(create_app(folder, token="abc", any_host=True), base_url="http://far.example") as client:
        assert client.get("/health").status_code == 401
        assert client.get("/health", headers={"authorization": "Bearer abd"}).status_code == 401
        assert client.get("/health", headers={"authorization": "Bearer abc"}).status_code == 200
        assert client.get("/", params={"token": "no"}).status_code == 401
        assert client.get("/", headers={"cookie": "rag_clip_token=a; b\x7f=(;;"}).status_code == 401
        moved = client.get("/prompts", params={"token": "abc", "file": "bare.json"}, follow_redirects=False)
        assert (moved.status_code, moved.headers["location"]) == (303, "/prompts?file=bare.json")
        away = client.get("http://far.example//evil.example", params={"token": "abc"}, follow_redirects=False)
        assert (away.status_code, away.headers["location"]) == (303, "/evil.example")
        assert "HttpOnly" in moved.headers["set-cookie"]
        assert "SameSite=strict" in moved.headers["set-cookie"]
        assert client.get("/health").status_code == 200  # by the cookie


def test_no_spreadsheet_takes_a_caption_for_a_formula() -> None:
    rows = [{"text": "=HYPERLINK(1)", "score": -0.5}, {"text": "a - b", "score": 1.0}]
    assert bytes(_table(rows, "csv").body).decode() == "text,score\r\n'=HYPERLINK(1),-0.5\r\na - b,1.0\r\n"
    assert json.loads(bytes(_table(rows, "json").body)) == rows


def test_uploads_are_bounded_and_checked(folder: Path) -> None:
    with TestClient(create_app(folder, most_bytes=10_000), base_url=HERE, raise_server_exceptions=False) as client:
        files = [("images", ("x.png", b"\0" * 20_000))]
        assert client.post("/v1/classify", params={"prompts": "bare.json"}, files=files).status_code == 413
        unknown = (b"x" * 1000 for _ in range(20))  # its length is not said
        assert client.post("/v1/search", content=unknown).status_code in (400, 413)
        for data in (b"no image", picture("red")[:30], b""):
            answer = client.post("/v1/classify", params={"prompts": "bare.json"}, files=[("images", ("x.png", data))])
            assert answer.status_code == 400
            assert "image" in answer.json()["error"]
        many = [("images", ("x.png", picture("red")))] * 33
        answer = client.post("/v1/classify", params={"prompts": "bare.json"}, files=many)
        assert answer.json()["error"].startswith("33 pictures were sent; at most 32")


def test_texts_of_others_are_never_markup(client: Any) -> None:
    for path, parameters in (
        ("/prompts", {"file": "odd <b>name.json"}),
        ("/predictions", {"file": "hostile.parquet"}),
        ("/index", {"text": "kite"}),
        ("/index", {"text": HOSTILE}),
        ("/why", {"prompts": "odd <b>name.json", "file": "photographs.parquet", "row": 0, "against": HOSTILE}),
        ("/", {}),
        ("/prompts", {"file": HOSTILE}),
    ):
        answer = client.get(path, params=parameters, headers={"accept": "text/html"})
        assert HOSTILE not in answer.text, path
        assert "<b>name" not in answer.text, path
        assert "&lt;" in answer.text, path


def test_every_operation_of_the_description_answers_odd_values_without_a_bug(client: Any) -> None:
    described = client.get("/openapi.json").json()
    assert {"/health", "/v1/search", "/v1/classify", "/v1/explain", "/v1/corrections"} <= described["paths"].keys()
    odd: list[Any] = [None, -1, 10**30, "", "\0", HOSTILE, [], {}, [[]], {"a": 1}, 1.5, True]
    for path, operations in described["paths"].items():
        for method in operations:
            for value in odd:
                place = path.replace("{name}", "x")
                names = [each["name"] for each in operations[method].get("parameters", []) if each["in"] == "query"]
                query = {name: str(value) for name in names}
                body = {} if method == "get" else {"json": value}
                assert client.request(method, place, params=query, **body).status_code < 500, (method, place, value)


@pytest.mark.slow
def test_every_answer_is_as_the_description_says(folder: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    checks = pytest.importorskip("schemathesis.checks", reason="needs schemathesis")
    hypothesis = pytest.importorskip("hypothesis", reason="needs schemathesis")
    checks.load_all_checks()
    by_design = [each for each in checks.CHECKS.get_all() if each.__name__ == "positive_data_acceptance"]
    here = {"host": "127.0.0.1"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(folder), headers=here)
    asked = []
    for found in schema.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(max_examples=20, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.call_and_validate(headers=here, excluded_checks=by_design)

        check()
        asked.append(operation.label)
    assert "POST /v1/classify" in asked


def test_a_missing_method_names_those_that_there_are(client: Any) -> None:
    answer = client.delete("/v1/search")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_the_styles_and_scripts_are_in_the_package() -> None:
    names = {path.name for path in (ROOT / "rag_clip" / "web" / "static").iterdir()}
    assert names == {"app.css", "app.js"}
    for path in (ROOT / "rag_clip" / "web").rglob("*.html"):
        assert "http://" not in path.read_text()
        assert "https://" not in path.read_text()
