"""The application: the guard, the endpoints and the pages over one state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from rag_clip.errors import RagClipError, explain
from rag_clip.web import rest, screens
from rag_clip.web.guard import LOCAL_HOSTS, Guard
from rag_clip.web.served import NotServedError
from rag_clip.web.state import State

MOST_BYTES = 64 << 20


def create_app(
    folder: str | Path,
    *,
    model: str | None = None,
    index: str | None = None,
    token: str | None = None,
    any_host: bool = False,
    most_bytes: int = MOST_BYTES,
) -> Guard:
    """Return the ASGI application that serves a folder.

    folder: what is served; nothing outside it is read or written, but `index`.
    model: the model for everything; None for the ones that files record.
    index: a further index, in a folder or on a server.
    token: what every request must know; None without one.
    any_host: answer to other hosts than this machine's own names, which needs a token.
    most_bytes: the largest body of a request.

    Raises FileNotFoundError if there is no folder, ValueError for a folder that is none and `any_host` without a token.
    """
    if any_host and not token:
        raise ValueError("a service that others can reach needs a token; give one")
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to serve")
    state = State(Path(folder), model=model, index=index)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        state.close()

    app = FastAPI(title="RAG-CLIP", version=version("rag-clip"), docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.shared = state
    app.include_router(rest.router)
    app.include_router(screens.router, include_in_schema=False)
    app.add_exception_handler(Exception, _failed)
    for kind in (ValueError, OSError, RagClipError):
        app.add_exception_handler(kind, _failed)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(RequestValidationError, _not_understood)
    return Guard(app, None if any_host else LOCAL_HOSTS, token, most_bytes)


def _answer(request: Request, status: int, message: str) -> Response:
    if request.url.path.startswith(("/v1", "/health")) or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"error": message}, status)
    return screens.error_page(request, status, message)


async def _failed(request: Request, error: Exception) -> Response:
    message = explain(error)
    missing = isinstance(error, NotServedError | FileNotFoundError)
    if message is None:
        return _answer(request, 500, f"a bug in rag-clip: {type(error).__name__}; the console has the details")
    return _answer(request, 404 if missing else 400, message)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _answer(request, error.status_code, f"{request.url.path}: {error.detail}")
    answer.headers.update(error.headers or {})  # Allow, of a method that is not
    return answer


async def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    places = [f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}" for each in error.errors()]
    return _answer(request, 422, "; ".join(places)[:1000])
