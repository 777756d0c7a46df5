"""`serve` as a program: it says where it listens at once, and ends when it is asked to."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra web")


def test_the_address_is_printed_while_it_listens_also_into_a_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rag_clip", "serve", str(tmp_path), "--port", "0", "--token", "abc"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+/", service.stdout.readline())
            assert address is not None
            request = urllib.request.Request(f"{address[0]}health", headers={"authorization": "Bearer abc"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == 200
        finally:
            service.terminate()
