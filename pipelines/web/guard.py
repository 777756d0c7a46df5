"""Open web addresses that strangers wrote: no private hosts, no other schemes, no endless answers.

The check is made on the address that is connected to, after names are resolved and on every redirect, so neither a
name that points inside nor a redirect that leads inside gets through.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PIECE_BYTES = 1 << 16
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressError(OSError):
    """An address that may not be opened."""


def is_public(address: str) -> bool:
    """Tell whether an IP address belongs to the public internet; IPv4 inside IPv6 counts as what it carries."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        carried = (
            ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
        )
        ip = carried or ip
    return ip.is_global and not ip.is_multicast


def make_opener(*, allow_private: bool, max_bytes: int, max_seconds: float) -> urllib.request.OpenerDirector:
    """Return an opener of http and https addresses.

    Private, loopback and link-local hosts are refused unless `allow_private`; an answer longer than `max_bytes`, or
    that takes longer than `max_seconds`, is broken off. A proxy of the environment is used, wherever it is; what it
    connects to is then its own matter, but for addresses written as numbers.

    The opener raises AddressError, or what urllib.request raises.
    """
    guard = _Guard(allow_private, max_bytes, max_seconds)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _PlainHandler(guard),
        _SecureHandler(guard),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def install_guard(*, allow_private: bool, max_bytes: int, max_seconds: float) -> None:
    """Make urllib.request.urlopen open everything in this process as `make_opener` describes."""
    opener = make_opener(allow_private=allow_private, max_bytes=max_bytes, max_seconds=max_seconds)
    urllib.request.install_opener(opener)


def _proxy_hosts() -> frozenset[str]:
    return frozenset(urlsplit(address).hostname or "" for address in urllib.request.getproxies().values())


@dataclass(frozen=True, slots=True)
class _Guard:
    """Makes connections that check where they lead and answers that end."""

    allow_private: bool
    max_bytes: int
    max_seconds: float
    proxies: frozenset[str] = field(default_factory=_proxy_hosts)

    def bind(self, connection: http.client.HTTPConnection) -> http.client.HTTPConnection:
        connection._create_connection = self._connect  # type: ignore[attr-defined]
        connection.response_class = self._respond  # type: ignore[assignment]
        return connection

    def check_number(self, host: str) -> None:
        """Refuse a private address written as a number, before a proxy would be asked for it."""
        try:
            allowed = self.allow_private or is_public(host.strip("[]"))
        except ValueError:
            return
        if not allowed:
            raise AddressError(f"{host} is a private address; it is refused")

    def _connect(self, address: tuple[str, int], timeout: Any = None, source_address: Any = None) -> socket.socket:
        host, port = address
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        trusted = self.allow_private or host in self.proxies
        open_to = [number for number in dict.fromkeys(found) if trusted or is_public(number)]
        if not open_to:
            raise AddressError(f"{host} is a private address ({found[0]}); it is refused")
        for number in open_to[:-1]:
            try:
                return socket.create_connection((number, port), timeout, source_address)
            except OSError:
                continue
        return socket.create_connection((open_to[-1], port), timeout, source_address)

    def _respond(self, sock: socket.socket, **settings: Any) -> _Response:
        return _Response(sock, guard=self, **settings)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *, guard: _Guard, **settings: Any) -> None:
        super().__init__(sock, **settings)
        self._guard = guard

    def read(self, amt: int | None = None) -> bytes:
        """Read `amt` bytes, or everything within the bounds."""
        return super().read(amt) if amt is not None else self._read_all()

    def _read_all(self) -> bytes:
        deadline = time.monotonic() + self._guard.max_seconds
        content = bytearray()
        if (self.length or 0) > self._guard.max_bytes:
            raise AddressError(f"the answer has more than {self._guard.max_bytes:,} bytes; it is not read")
        while piece := self.read1(PIECE_BYTES):
            content += piece
            if len(content) > self._guard.max_bytes:
                raise AddressError(f"the answer has more than {self._guard.max_bytes:,} bytes; it is not read")
            if time.monotonic() > deadline:
                raise AddressError(f"the answer takes more than {self._guard.max_seconds:g} seconds; it is not read")
        if self.length:  # read1 takes a connection that breaks off for the end
            raise http.client.IncompleteRead(bytes(content), self.length)
        return bytes(content)


class _PlainHandler(urllib.request.HTTPHandler):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._guard = guard

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open an http address."""
        self._guard.check_number(urlsplit(req.full_url).hostname or "")
        return self.do_open(lambda host, **rest: self._guard.bind(http.client.HTTPConnection(host, **rest)), req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._guard = guard

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open an https address; certificates are checked."""
        self._guard.check_number(urlsplit(req.full_url).hostname or "")
        return self.do_open(lambda host, **rest: self._guard.bind(http.client.HTTPSConnection(host, **rest)), req)
