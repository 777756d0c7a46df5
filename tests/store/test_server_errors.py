from __future__ import annotations

import grpc
import pytest

from rag_clip.store import StoreError
from rag_clip.store.server_errors import ATTEMPTS, patiently, server_errors


class Failure(grpc.RpcError):  # type: ignore[misc]  # gRPC has no types
    """What gRPC raises, with a code of ours."""

    def __init__(self, code: grpc.StatusCode, details: str = "as told") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


def outcome(code: grpc.StatusCode, failures: int) -> tuple[str, int]:
    """Return how a call that fails so often ends, and after how many pauses."""
    left, pauses = [Failure(code)] * failures, list[float]()

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    try:
        with server_errors("captions"):
            return patiently(call, pause=pauses.append), len(pauses)
    except StoreError as error:
        return str(error), len(pauses)


@pytest.mark.parametrize("name", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL"])
def test_a_code_that_may_pass_is_tried_eight_times_and_then_told(name):
    code = grpc.StatusCode[name]
    assert outcome(code, ATTEMPTS - 1) == ("done", ATTEMPTS - 1)
    message, pauses = outcome(code, ATTEMPTS)
    assert message.startswith("the Qdrant server failed on captions: ")
    assert "as told" in message
    assert ("is a node of the cluster away?" in message) == (name == "INTERNAL")
    assert pauses == ATTEMPTS - 1


@pytest.mark.parametrize("name", ["INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"])
def test_a_code_that_stays_is_told_at_once(name):
    assert outcome(grpc.StatusCode[name], 1) == ("the Qdrant server failed on captions: as told", 0)


@pytest.mark.parametrize(
    ("code", "details", "message"),
    [
        (
            "UNAVAILABLE",
            "SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED",
            "not trusted .* set QDRANT_CA_FILE to",
        ),
        ("UNAVAILABLE", "SSL routines:WRONG_VERSION_NUMBER", "it does not speak TLS .*; write http:// for it"),
        ("UNAUTHENTICATED", "call host does not match SSL server name", "for another host .*; write a name of that"),
        ("UNAUTHENTICATED", "Invalid API key", r"it refused the API key \(Invalid API key\); set QDRANT_API_KEY"),
    ],
)
def test_what_is_wrong_with_tls_is_told_from_a_wrong_key(code, details, message):
    with pytest.raises(StoreError, match=message), server_errors("captions"):
        raise Failure(grpc.StatusCode[code], details)
