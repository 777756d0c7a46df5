"""Open web addresses that strangers wrote: no private hosts, no other schemes, no endless answers.

The check is made on the address that is connected to, after names are resolved and on every redirect, so neither a
name that points inside nor a redirect that leads inside gets through.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import time
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from rag_clip.errors import RagClipError

PIECE_BYTES = 1 << 16
DEADLINE = "_rag_clip_deadline"
UNICAST = ipaddress.ip_network("2000::/3")  # all that was ever allocated to the internet
# IPv4 in the last 32 bits: compatible, mapped, translated (RFC 2765) and NAT64.
CARRIERS = tuple(map(ipaddress.ip_network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
ISATAP = {0x00005EFE, 0x02005EFE}


class AddressError(RagClipError, OSError):
    """An address that may not be opened."""


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet; IPv4 inside IPv6 is judged as IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast
    last = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if any(ip in carrier for carrier in CARRIERS):
        return is_public(str(last))
    if ip.sixtofour is not None:
        return is_public(str(ip.sixtofour))
    isatap = int(ip) >> 32 & 0xFFFFFFFF in ISATAP
    return ip in UNICAST and ip.is_global and not (isatap and not is_public(str(last)))


def make_opener(*, allow_private: bool, max_bytes: int, max_seconds: float) -> urllib.request.OpenerDirector:
    """Return an opener of http and https addresses.

    Private, loopback and link-local hosts are refused unless `allow_private`. A response is ended when it is longer
    than `max_bytes`, or takes longer than `max_seconds` from the first connection to the last byte, redirects included.
    A proxy of the environment is used, wherever it is; of the addresses that it connects to, only those written as
    numbers are checked.

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
        _RedirectHandler(),
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

    def bind(self, connection: http.client.HTTPConnection, deadline: float) -> http.client.HTTPConnection:
        connection._create_connection = partial(self._connect, deadline)  # type: ignore[attr-defined]
        connection.response_class = partial(_Response, guard=self, deadline=deadline)  # type: ignore[assignment]
        return connection

    def left(self, deadline: float) -> float:
        """Return the seconds until the deadline; raises AddressError where there are none."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise AddressError(f"the answer takes more than {self.max_seconds:g} seconds; it is not read")
        return left

    def deadline_of(self, request: urllib.request.Request) -> float:
        """Return when the exchange that a request is part of must end, counted from its first request."""
        deadline: float = request.__dict__.setdefault(DEADLINE, time.monotonic() + self.max_seconds)
        return deadline

    def check_number(self, host: str) -> None:
        """Refuse a private address written as a number, before a proxy would request it."""
        try:
            number = host.strip("[]") if ":" in host else socket.inet_ntoa(socket.inet_aton(host))
            allowed = self.allow_private or is_public(number)
        except (ValueError, OSError):
            return
        if not allowed:
            raise AddressError(f"{host} is a private address; it is refused")

    def _connect(
        self, deadline: float, address: tuple[str, int], timeout: Any = None, source_address: Any = None
    ) -> socket.socket:
        host, port = address
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        trusted = self.allow_private or host in self.proxies
        open_to = [number for number in dict.fromkeys(found) if trusted or is_public(number)]
        if not open_to:
            raise AddressError(f"{host} is a private address ({found[0]}); it is refused")
        for number in open_to[:-1]:
            try:
                return socket.create_connection((number, port), self._patience(timeout, deadline), source_address)
            except OSError:
                continue
        return socket.create_connection((open_to[-1], port), self._patience(timeout, deadline), source_address)

    def _patience(self, timeout: Any, deadline: float) -> float:
        left = self.left(deadline)
        return min(left, timeout) if isinstance(timeout, int | float) else left


class _Stream(io.RawIOBase):
    """The response of a server, until the deadline, which slow bytes do not extend."""

    def __init__(self, sock: socket.socket, guard: _Guard, deadline: float) -> None:
        self._file = sock.makefile("rb", buffering=0)
        self._socket, self._guard, self._deadline = sock, guard, deadline
        self._timeout = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._guard.left(self._deadline)
        self._socket.settimeout(left if self._timeout is None else min(left, self._timeout))
        try:
            count: int | None = self._file.readinto(buffer)
        except TimeoutError:
            self._guard.left(self._deadline)
            raise
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *, guard: _Guard, deadline: float, **settings: Any) -> None:
        super().__init__(sock, **settings)
        self.fp.close()
        self.fp = io.BufferedReader(_Stream(sock, guard, deadline))
        self._guard = guard

    def read(self, amt: int | None = None) -> bytes:
        """Read `amt` bytes, or everything within the bounds."""
        return super().read(amt) if amt is not None else self._read_all()

    def _read_all(self) -> bytes:
        content = bytearray()
        if (self.length or 0) > self._guard.max_bytes:
            raise AddressError(f"the answer has more than {self._guard.max_bytes:,} bytes; it is not read")
        while piece := self.read1(PIECE_BYTES):
            content += piece
            if len(content) > self._guard.max_bytes:
                raise AddressError(f"the answer has more than {self._guard.max_bytes:,} bytes; it is not read")
        if self.length:  # read1 takes a connection that breaks off for the end
            raise http.client.IncompleteRead(bytes(content), self.length)
        return bytes(content)


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, *answer: Any) -> urllib.request.Request | None:
        """Follow a redirect within the time of the whole exchange."""
        following = super().redirect_request(req, *answer)
        if following is not None and DEADLINE in req.__dict__:
            following.__dict__[DEADLINE] = req.__dict__[DEADLINE]
        return following


class _PlainHandler(urllib.request.HTTPHandler):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._guard = guard

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open an http address."""
        self._guard.check_number(urlsplit(req.full_url).hostname or "")
        deadline = self._guard.deadline_of(req)
        return self.do_open(
            lambda host, **rest: self._guard.bind(http.client.HTTPConnection(host, **rest), deadline), req
        )


class _SecureHandler(urllib.request.HTTPSHandler):
    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self._guard = guard

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open an https address; certificates are checked."""
        self._guard.check_number(urlsplit(req.full_url).hostname or "")
        deadline = self._guard.deadline_of(req)
        return self.do_open(
            lambda host, **rest: self._guard.bind(http.client.HTTPSConnection(host, **rest), deadline), req
        )
