"""A real server behind a proxy of HTTPS, with a path prefix and no gRPC, and one that speaks TLS itself."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from inputs.qdrant_real import RealQdrant, needs_command
from inputs.stores import DIM, ENCODER, IDS, batch
from rag_clip.store import StoreError, create_store, load_schema, open_store
from rag_clip.store.connection import reach

KEY = "the key of the proxy"

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs a Qdrant server and openssl"),
]


class Proxy(BaseHTTPRequestHandler):
    """Passes on what is under /prefix and has the key; everything else is refused."""

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self.path.startswith("/prefix/") and self.path != "/prefix":
            return self._answer(404, b"{}")
        if self.headers.get("api-key") != KEY:
            return self._answer(401, b"Invalid API key")
        request = urllib.request.Request(
            os.environ["QDRANT_URL"] + self.path.removeprefix("/prefix"),
            body or None,
            {"Content-Type": "application/json"},
            method=self.command,
        )
        try:
            with urllib.request.urlopen(request) as answer:
                self._answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, error.read())

    do_GET = do_PUT = do_POST = do_PATCH = _pass  # noqa: N815

    def _answer(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def certificate(tmp_path) -> Path:
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "ca.pem")]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *names]
    subprocess.run([*made, "-days", "2", *files], check=True, capture_output=True)
    return tmp_path / "ca.pem"


@pytest.fixture
def location(certificate) -> Iterator[str]:
    if "QDRANT_URL" not in os.environ:
        pytest.skip("needs a Qdrant server at QDRANT_URL")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://localhost:{server.server_port}/prefix/test-{uuid.uuid4()}"
        server.shutdown()
        thread.join()


def test_an_index_lives_behind_https_with_a_prefix_and_a_key(location, certificate, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    monkeypatch.setenv("QDRANT_CA_FILE", str(certificate))
    with create_store(location, schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        store.upsert(batch())
        store.optimise()
        store.note("funnel", {"kept": 6})
    with open_store(location) as store:
        assert store.card.notes["funnel"]["kept"] == 6
        assert [hit.id for hit in store.search(texts=["kite"], mode="lexical")[0]] == [IDS[3], IDS[0]]
        assert store.search(texts=["kite"], mode="lexical", holding=[["dog"]]) == [[]]
        assert sorted(store.vectors(IDS)) == sorted(IDS)


def test_an_unknown_authority_and_a_wrong_key_are_refused(location, certificate, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    with pytest.raises(StoreError, match=r"is not trusted .*CERTIFICATE_VERIFY_FAILED.*QDRANT_CA_FILE"):
        open_store(location)
    monkeypatch.setenv("QDRANT_CA_FILE", str(certificate))
    monkeypatch.setenv("QDRANT_API_KEY", "another")
    with pytest.raises(StoreError, match="it refused the API key"):
        open_store(location)


@needs_command
def test_a_server_with_tls_and_a_key_is_used_over_grpc(certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    with RealQdrant(tmp_path / "real", key=KEY, authority=certificate) as server:
        with pytest.raises(StoreError, match=r"its certificate is not trusted .*; set QDRANT_CA_FILE"):
            open_store(server.location)
        monkeypatch.setenv("QDRANT_CA_FILE", str(certificate))
        client, _collection = reach(server.location, KEY, ca_file=str(certificate))
        assert client.init_options["prefer_grpc"]
        client.close()
        with create_store(server.location, schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
            store.upsert(batch())
            store.optimise()
            assert [hit.id for hit in store.search(texts=["kite"], mode="lexical")[0]] == [IDS[3], IDS[0]]
        with pytest.raises(StoreError, match=r"is it running, with gRPC reachable, and https:// if it speaks TLS\?"):
            open_store(server.location.replace("https", "http"))
        monkeypatch.setenv("QDRANT_API_KEY", "another")
        with pytest.raises(StoreError, match="it refused the API key"):
            open_store(server.location)


@needs_command
def test_a_server_without_tls_is_told_from_one_that_is_away(certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("QDRANT_CA_FILE", str(certificate))
    with (
        RealQdrant(tmp_path / "real") as server,
        pytest.raises(StoreError, match=r"does not speak TLS .*write http://"),
    ):
        open_store(server.location.replace("http", "https"))
