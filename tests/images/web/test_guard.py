"""The guard over what a download may open."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from inputs.pictures import picture
from inputs.web_server import Server, serving
from rag_clip.images.web.guard import AddressError, is_public, make_opener


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        server.images["/red"] = picture("red")
        yield server


def fetch(
    url: str, *, allow_private: bool = True, max_bytes: int = 1 << 20, timeout: float = 5.0, max_seconds: float = 10
) -> bytes:
    opener = make_opener(allow_private=allow_private, max_bytes=max_bytes, max_seconds=max_seconds)
    with opener.open(url, timeout=timeout) as answer:
        content: bytes = answer.read()
    return content


PUBLIC = [
    *("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "::ffff:0:8.8.8.8", "2002:808:808::"),
    "2606:4700::5efe:808:808",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::",
        "::127.0.0.1", "::10.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::808:808", "64:ff9b:1:7f00:0:100::", "fec0::1",
        "feff::1", "2001:0:7f00:1::1", "2001:0:808:808:0:0:80ff:fffe", "2606:4700::5efe:a00:1", "ff02::1", "4000::1",
        "2606:4700::200:5efe:7f00:1", "100::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_every_kind_of_inner_address_is_private(address: str):
    assert not is_public(address)


def test_an_answer_is_read_whole(server: Server):
    assert fetch(server.url("/red")) == picture("red")
    assert fetch(server.url("/moved")) == picture("red")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0"])
def test_a_private_host_is_refused_however_it_is_written(server: Server, host: str):
    with pytest.raises((AddressError, urllib.error.URLError), match="is a private address"):
        fetch(f"http://{host}:{server.server_port}/red", allow_private=False)
    assert server.asked == {}


def test_a_name_that_resolves_to_a_private_address_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch):
    inner = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.server_port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: inner)
    with pytest.raises(urllib.error.URLError, match=r"images.example is a private address \(127.0.0.1\)"):
        fetch("http://images.example/red", allow_private=False)
    assert server.asked == {}


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:image/png;base64,AA=="])
def test_other_schemes_are_refused(url: str):
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        fetch(url)


def test_a_redirect_to_a_file_is_refused(server: Server):
    with pytest.raises(
        urllib.error.HTTPError, match="Redirection to url 'file:///etc/passwd' is not allowed"
    ) as caught:
        fetch(server.url("/to-file"))
    caught.value.close()


def test_a_redirect_that_leads_to_itself_ends(server: Server):
    with pytest.raises(urllib.error.HTTPError, match="infinite loop") as caught:
        fetch(server.url("/loop"))
    caught.value.close()


@pytest.mark.parametrize("path", ["/huge", "/endless"])
def test_an_answer_above_the_limit_is_not_read(server: Server, path: str):
    with pytest.raises(AddressError, match="more than 1,048,576 bytes"):
        fetch(server.url(path))


@pytest.mark.parametrize("path", ["/drip-status", "/drip-headers", "/drip-continue", "/drip-body", "/slow"])
def test_the_limit_of_time_bounds_the_whole_exchange(server: Server, path: str):
    with pytest.raises((AddressError, urllib.error.URLError), match=r"takes more than 0\.5 seconds"):
        fetch(server.url(path), max_seconds=0.5)


def test_redirects_share_the_time_of_one_exchange(server: Server):
    with pytest.raises((AddressError, urllib.error.URLError), match=r"takes more than 0\.5 seconds"):
        fetch(server.url("/round"), max_seconds=0.5)
    assert server.asked["/round"] <= 2


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "[::127.0.0.1]", "[::ffff:0:7f00:1]"])
def test_a_number_is_refused_before_a_proxy_is_asked_for_it(server: Server, monkeypatch: pytest.MonkeyPatch, host: str):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.url("/"))
    with pytest.raises((AddressError, urllib.error.URLError), match="is a private address"):
        fetch(f"http://{host}/red", allow_private=False)
    assert server.asked == {}


def test_an_answer_that_breaks_off_is_not_taken_for_whole(server: Server):
    with pytest.raises(http.client.IncompleteRead):
        fetch(server.url("/short"))


def test_a_missing_page_is_an_error(server: Server):
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        fetch(server.url("/absent"))
    caught.value.close()


def test_certificates_are_checked(server: Server):
    with pytest.raises(urllib.error.URLError, match="SSL"):
        fetch(server.url("/red").replace("http:", "https:"))
