"""Errors of a Qdrant server: which to retry, and how to explain them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from grpc import RpcError, StatusCode
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from rag_clip.store.interface import StoreError

Answer = TypeVar("Answer")
Pause = Callable[[float], None]

ATTEMPTS = 8
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
PASSING = {
    StatusCode.UNAVAILABLE,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.ABORTED,
    StatusCode.INTERNAL,  # a cluster that has lost a node says this; REST says 500
}
TLS = {  # words of the reason that gRPC or REST gives, what they mean, and what to do
    "does not match SSL server name": ("its certificate is for another host", "write a name of that certificate"),
    "Hostname mismatch": ("its certificate is for another host", "write a name of that certificate"),
    "IP address mismatch": ("its certificate is for another host", "write a name of that certificate"),
    "CERTIFICATE_VERIFY_FAILED": (
        "its certificate is not trusted",
        "set QDRANT_CA_FILE to a PEM file of its issuer",
    ),
    "WRONG_VERSION_NUMBER": ("it does not speak TLS", "write http:// for it"),
}
REFUSING = {StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED}


def patiently(call: Callable[[], Answer], *, pause: Pause = time.sleep) -> Answer:
    """Return the result of `call`, with retries after transient errors: up to eight calls within about half a minute.

    Pauses double from half a second to ten seconds, each shortened at random by up to a half, so that many clients do
    not retry at the same time. If the server requests a longer pause, it gets one.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except (RpcError, ApiException, QdrantException) as error:
            if not _may_pass(error):
                raise
            longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**attempt)
            asked = error.retry_after_s if isinstance(error, ResourceExhaustedResponse) else 0
            pause(max(asked, longest * random.uniform(0.5, 1.0)))
    return call()


@contextmanager
def server_errors(subject: str) -> Iterator[None]:
    """Re-raise errors of the client as a StoreError that names the collection or address, and what to do."""
    try:
        yield
    except (RpcError, ApiException, QdrantException) as error:
        raise StoreError(f"the Qdrant server failed on {subject}: {_explain(error)}") from None


def _may_pass(error: Exception) -> bool:
    if isinstance(error, RpcError):
        return _code(error) in PASSING
    if isinstance(error, UnexpectedResponse):
        return error.status_code in {429, 500, 502, 503, 504}
    return isinstance(error, ResourceExhaustedResponse)


def _explain(error: Exception) -> str:
    reason = error.details() if isinstance(error, RpcError) and hasattr(error, "details") else str(error)
    for words, (fault, advice) in TLS.items():
        if words in str(reason):
            return f"{fault} ({reason}); {advice}"
    refused = isinstance(error, UnexpectedResponse) and error.status_code in {401, 403}
    if refused or _code(error) in REFUSING:
        return f"it refused the API key ({reason}); set QDRANT_API_KEY to the key of this server"
    if _code(error) == StatusCode.DEADLINE_EXCEEDED:
        return f"no answer in time ({reason}); is it overloaded? What was written is kept: start again"
    if _code(error) == StatusCode.UNAVAILABLE:
        return (
            f"{reason}; is it running, with gRPC reachable, and https:// if it speaks TLS? What was written is kept: "
            "start again"
        )
    if _code(error) == StatusCode.INTERNAL or (isinstance(error, UnexpectedResponse) and error.status_code == 500):
        return f"{reason}; is a node of the cluster away? What was written is kept: start again when it is back"
    return str(reason)


def _code(error: Exception) -> StatusCode | None:
    return error.code() if isinstance(error, RpcError) and hasattr(error, "code") else None
