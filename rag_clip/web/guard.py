"""What every request passes: the host that it names, where it comes from, the token, and the size of its body.

A page of another site can make a browser send requests here. Its forms and scripts are refused by `Sec-Fetch-Site` and
`Origin`, and a name that an attacker points at this machine (DNS rebinding) by `Host`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
COOKIE = "rag_clip_token"
SAFE = ("GET", "HEAD", "OPTIONS")
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer, forms would send no origin
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """An ASGI application around another one.

    hosts: the names that requests may give as their host; None for any, which is safe only with a token.
    token: what each request must know; None without one.
    most_bytes: the largest body of a request.
    """

    app: Any
    hosts: frozenset[str] | None
    token: str | None
    most_bytes: int

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refuse(scope, headers)
        if refused is not None:
            await refused(scope, receive, _with_headers(send))
            return
        if self.token is not None and (given := dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token")):
            await self._remember(scope, given)(scope, receive, _with_headers(send))
            return
        await self.app(scope, self._bounded(receive), _with_headers(send))

    def _refuse(self, scope: Any, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if self.hosts is not None and _without_port(host) not in self.hosts:
            return _error(421, f"this service does not answer to the host {host[:100]!r}; use the address it printed")
        if self.token is not None and not self._knows(scope, headers):
            return _error(401, "the token is missing or wrong; use the address with the token that was printed")
        if scope["method"] not in SAFE:
            origin, site = headers.get("origin"), headers.get("sec-fetch-site")
            if site not in (None, "same-origin", "none") or origin not in (None, f"{scope['scheme']}://{host}"):
                return _error(403, "the request comes from a page of another site; use this service's own pages")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.most_bytes:
            return _error(413, f"the request is larger than {self.most_bytes >> 20} MiB; send less at once")
        return None

    def _knows(self, scope: Any, headers: Headers) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        given = [
            headers.get("authorization", "").removeprefix("Bearer "),
            "" if cookie is None else cookie.value,
            dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token", ""),
        ]
        return any(secrets.compare_digest(each.encode(), str(self.token).encode()) for each in given)

    def _remember(self, scope: Any, token: str) -> Response:
        """Answer with a cookie, and the same address without the token, which stays out of histories and logs."""
        rest = [pair for pair in parse_qsl(scope["query_string"].decode("latin-1")) if pair[0] != "token"]
        path = "/" + scope["path"].lstrip("/\\")  # //host would lead to another host
        response = RedirectResponse(f"{path}?{urlencode(rest)}" if rest else path, 303)
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
        return response

    def _bounded(self, receive: Any) -> Any:
        read = 0

        async def bounded() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most_bytes:  # a body whose length was not said
                return {"type": "http.disconnect"}
            return message

        return bounded


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def _with_headers(send: Any) -> Any:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending
