"""Captions over http, with what a fresh install has, and the secrets of their addresses."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.pictures import LightEncoder, picture, write_images
from rag_clip.captions.sources.finding import find_sources, read_source
from rag_clip.cli import app
from rag_clip.corpus.cleaning import load_cleaning
from rag_clip.data import LabelSet
from rag_clip.files.support import read_support
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.embed import embed_captions
from rag_clip.pipelines.support_shots import support_from_shots
from rag_clip.testing import ToyEncoder

TEXTS = ["a red flag on a mast", "a blue flag on a mast", "x"]
SECRETS = ("hunter2", "s3cret")


def parquet() -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"caption": TEXTS}), held)
    return held.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Serves files to those who give the password and the token, whole or a range of bytes."""

    files = {  # noqa: RUF012
        "/captions.parquet": parquet(),
        "/captions.csv": ("caption\n" + "\n".join(TEXTS) + "\n").encode(),
        "/torn.parquet": parquet()[:-9],
    }

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        path, _, query = self.path.partition("?")
        if query != "token=s3cret" or not (self.headers.get("Authorization") or "").startswith("Basic YW5uOmh1bnRlc"):
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return b""
        content, wanted = self.files.get(path), self.headers.get("Range")
        body = content or b""
        if content and wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            body = content[int(first) : int(last or len(content)) + 1]
        self.send_response(404 if content is None else 206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if content and wanted:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(content)}")
        self.end_headers()
        return body

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def place() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://ann:hunter2@127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(arguments: list[str]) -> object:
    return app(arguments, result_action="return_value")


def holds_secret(folder: Path) -> list[str]:
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in SECRETS)
    ]


@pytest.mark.parametrize("name", ["captions.parquet", "captions.csv"])
def test_captions_are_read_over_http(place: str, name: str) -> None:
    [source] = find_sources([f"{place}/{name}?token=s3cret"])
    assert [row for batch in read_source(source) for row in batch["text"].to_pylist()] == TEXTS
    assert source.name == "captions"


def test_secrets_of_an_address_reach_no_file(place: str, tmp_path: Path) -> None:
    cleaning = load_cleaning().model_copy(update={"min_words": 2, "max_images": 1})
    for name in ("captions.parquet", "captions.csv"):
        build_index([f"{place}/{name}?token=s3cret"], index=tmp_path / name, encoder=ToyEncoder(), cleaning=cleaning)
        [manifest] = [json.loads(path.read_text()) for path in (tmp_path / f"{name}.shards").glob("*.json")]
        assert manifest["url"].startswith(f"http://{place.partition('@')[2]}/{name}?hidden=")
        [dropped] = (tmp_path / f"{name}.shards").glob("dropped/*.parquet")
        assert pq.read_table(dropped)["text"].to_pylist() == ["x"]
    assert holds_secret(tmp_path) == []


def test_another_password_embeds_nothing_again(place: str, tmp_path: Path) -> None:
    for user in ("ann:hunter2", "ann:hunter3"):
        address = place.replace("ann:hunter2", user)
        summary = embed_captions([f"{address}/captions.csv?token=s3cret"], shards=tmp_path, encoder=ToyEncoder())
    assert (summary.finished, summary.embedded) == (1, 0)


@pytest.mark.parametrize(
    "path",
    ["captions.parquet?token=s3cretly", "absent.csv?token=s3cret", "torn.parquet?token=s3cret", "a.docx?token=s3cret"],
)
def test_secrets_of_an_address_are_in_no_message(
    place: str, path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["index", "build", f"{place}/{path}", "--index", str(tmp_path / "index"), "--model", "demo"]
    assert run(arguments) == 1
    told = "".join(capsys.readouterr())
    assert path.partition("?")[0] in told
    assert [secret for secret in SECRETS if secret in told] == []


def test_secrets_of_a_preview_are_not_shown(place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    address = f"{place}/captions.csv?token=s3cret"
    assert run(["index", "build", address, "--index", str(tmp_path / "i"), "--model", "demo", "--dry-run"]) == 0
    told = "".join(capsys.readouterr())
    assert "captions.csv?hidden=" in told
    assert [secret for secret in SECRETS if secret in told] == []
    assert run(["search", "qdrant://ann:hunter2@127.0.0.1/x?key=s3cret", "--text", "flag", "--model", "demo"]) == 1
    assert [secret for secret in SECRETS if secret in "".join(capsys.readouterr())] == []


def test_secrets_of_addresses_of_images_reach_no_support_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = write_images(tmp_path / "a.parquet", [picture("red"), picture("blue")], label=["red", "blue"])
    place = "memory://ann:hunter2@box/a.parquet"
    with fsspec.open(place, "wb") as file:
        file.write(local.read_bytes())
    output = tmp_path / "out" / "s.parquet"
    support_from_shots([place], LabelSet(("red", "blue")), output=output, encoder=LightEncoder(), k=1)
    assert sorted(read_support(output).references) == ["memory://box/a.parquet#0", "memory://box/a.parquet#1"]
    assert holds_secret(tmp_path) == []
    absent = place.replace("a.parquet", "b.parquet")
    (tmp_path / "labels.txt").write_text("red\nblue\n")
    arguments = ["support", "shots", absent, "--labels", str(tmp_path / "labels.txt"), "-k", "1", "--model", "demo"]
    assert run([*arguments, "-o", str(tmp_path / "t.parquet")]) == 1
    assert "there is no file memory://box/b.parquet" in capsys.readouterr().err
