"""Real Qdrant servers of our own: one node or a cluster, killed and started again; QDRANT_COMMAND starts a node."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from rag_clip.store import CollectionSchema, load_schema
from rag_clip.store.schema import ServerSchema

COMMAND = "QDRANT_COMMAND"
SECONDS = 60.0

# Nodes, and which of them is killed: the only one, the one that is addressed, or another.
KILLED = pytest.mark.parametrize(("nodes", "victim"), [(1, 0), (3, 0), (3, 2)], ids=["alone", "addressed", "another"])
needs_command = pytest.mark.skipif(
    COMMAND not in os.environ, reason="needs a Qdrant server to kill; QDRANT_COMMAND starts one"
)


class RealQdrant:
    """Nodes over folders below `folder`, each on ports of its own; killed at the end of a `with`.

    key: the API key that they ask for.
    authority: their certificate, PEM, with `key.pem` beside it, for TLS to clients.

    Safe to call from any thread. The first node is the one at `location`.
    """

    def __init__(self, folder: Path, *, nodes: int = 1, key: str = "", authority: Path | None = None) -> None:
        self.key = key
        self.starts = 0
        self._folder = folder
        self._authority = authority
        self._ports = [_free_ports() for _ in range(nodes)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * nodes
        self._starting = threading.Lock()

    def __enter__(self) -> RealQdrant:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def location(self) -> str:
        """The address of the first node."""
        return self._address(0)

    def start(self) -> RealQdrant:
        """Start the nodes that do not run, and return when all are ready and know one another."""
        nodes = range(len(self._ports))
        with self._starting:
            limit = time.monotonic() + SECONDS
            while time.monotonic() < limit:
                # A node can join only when the first one listens.
                if all(self._listens(node) for node in nodes) and all(self._is_ready(node) for node in nodes):
                    return self
                time.sleep(0.05)
        raise TimeoutError(f"the nodes in {self._folder} are not ready")

    def _listens(self, node: int) -> bool:
        """Return whether a node answers; it is started if it was not, or was killed."""
        process = self._processes[node]
        if process is not None and process.poll() not in (None, -signal.SIGKILL):
            raise RuntimeError((self._folder / f"node-{node}" / "log").read_text())
        if process is None or process.returncode is not None:
            self._processes[node] = self._start(node)
            self.starts += 1
        return self._ask(node, "/healthz") is not None

    def _is_ready(self, node: int) -> bool:
        known = self._ask(node, "/cluster") if len(self._ports) > 1 else None
        peers = json.loads(known)["result"].get("peers", {}) if known else {}
        return self._ask(node, "/readyz") is not None and (len(self._ports) == 1 or len(peers) == len(self._ports))

    def kill(self, node: int | None = None) -> None:
        """Kill -9 one node, or all; what is dead stays so."""
        for process in self._processes if node is None else [self._processes[node]]:
            if process is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                process.wait()

    def _start(self, node: int) -> subprocess.Popen[bytes]:
        folder = self._folder / f"node-{node}"
        folder.mkdir(parents=True, exist_ok=True)
        http, grpc, peers = self._ports[node]
        variables = {
            "SERVICE__HOST": "127.0.0.1",
            "SERVICE__HTTP_PORT": http,
            "SERVICE__GRPC_PORT": grpc,
            "STORAGE__STORAGE_PATH": folder / "storage",
            "STORAGE__SNAPSHOTS_PATH": folder / "snapshots",
            "TELEMETRY_DISABLED": "true",
            "LOG_LEVEL": "WARN",
        }
        if self.key:
            variables["SERVICE__API_KEY"] = self.key
        if self._authority is not None:
            pair = {"CERT": self._authority, "KEY": self._authority.with_name("key.pem")}
            variables |= {"SERVICE__ENABLE_TLS": "true", **{f"TLS__{name}": path for name, path in pair.items()}}
        command = shlex.split(os.environ[COMMAND])
        if len(self._ports) > 1:
            variables |= {"CLUSTER__ENABLED": "true", "CLUSTER__P2P__PORT": peers}
            first = f"http://127.0.0.1:{self._ports[0][2]}"
            command += ["--uri", f"http://127.0.0.1:{peers}", *(["--bootstrap", first] if node else [])]
        environment = {f"QDRANT__{name}": str(value) for name, value in variables.items()}
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=folder, env=os.environ | environment, stdout=log, stderr=log)

    def _address(self, node: int) -> str:
        return f"{'https' if self._authority else 'http'}://127.0.0.1:{self._ports[node][0]}"

    def _ask(self, node: int, path: str) -> bytes | None:
        """Return what a node answers to GET, None where it does not."""
        context = ssl.create_default_context(cafile=self._authority) if self._authority else None
        request = urllib.request.Request(self._address(node) + path, headers={"api-key": self.key})
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                content: bytes = answer.read()
        except OSError:
            return None
        return content


def in_copies(nodes: int, *, write: int = 2) -> CollectionSchema:
    """Return the default schema, on several nodes with three shards in two copies, `write` of which a write awaits."""
    server = ServerSchema(shards=3, replication_factor=2, write_consistency=write) if nodes > 1 else ServerSchema()
    return load_schema().model_copy(update={"server": server})


def _free_ports() -> tuple[int, int, int]:
    """Return a free port, its successor, where our tools look for gRPC, and another for the peers."""
    for _ in range(1000):
        with contextlib.ExitStack() as stack:
            http = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            peers = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                stack.enter_context(socket.create_server(("127.0.0.1", http + 1)))
                return http, http + 1, peers
    raise OSError("no two ports in succession are free")
