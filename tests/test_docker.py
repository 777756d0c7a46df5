"""The properties of the Docker files, read from the files; the health check is run against a server of our own."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from inputs.folders import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
SERVICES = COMPOSE["services"]
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.cluster.yaml").read_text())
NODES = CLUSTER["services"]


def instructions() -> list[tuple[str, str]]:
    """Parse the Dockerfile into (instruction, value), continued lines joined and comments dropped."""
    lines = [line for line in (ROOT / "docker/Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(name, value) for name, value in (line.split(" ", 1) for line in joined.splitlines() if line)]


def values(instruction: str) -> list[str]:
    return [value for name, value in instructions() if name == instruction]


def program_commands() -> list[str]:
    """Every pip, python and rag-clip command of the Dockerfile, without its mounts and variables."""
    commands = [command for run in values("RUN") for command in run.split(" && ")]
    bare = [re.sub(r"^(--mount=\S+ |[A-Z_]+=\S* )*", "", command) for command in commands]
    return [command for command in bare if command.split()[0] in {"pip", "python", "rag-clip"}]


def test_the_dockerfile_runs_the_commands_that_ci_runs() -> None:
    assert program_commands() == [
        "pip install -c constraints.txt build setuptools",
        "python -m build --wheel --no-isolation --outdir dist",
        "pip install -c constraints.txt dist/rag_clip-*.whl",
        "rag-clip --help",
    ]
    ci = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    assert [command for command in program_commands() if command not in ci] == []


def test_the_image_runs_rag_clip_as_a_user_without_privileges() -> None:
    names = [name for name, _ in instructions()]
    assert values("ENTRYPOINT") == ['["rag-clip"]']
    assert values("USER") == ["rag-clip"]
    assert "USER" in names[len(names) - names[::-1].index("FROM") :]
    assert values("VOLUME") == ["/data"]


def test_cuda_or_cpu_is_a_build_argument() -> None:
    assert 'TORCH_INDEX=""' in values("ARG")
    install = next(run for run in values("RUN") if "dist/rag_clip" in run)
    assert 'PIP_EXTRA_INDEX_URL="${TORCH_INDEX}"' in install
    assert SERVICES["engine"]["build"]["args"] == {"TORCH_INDEX": "${TORCH_INDEX:-}"}


def test_the_base_image_is_a_python_that_the_package_supports() -> None:
    (base,) = (value for value in values("ARG") if value.startswith("PYTHON_IMAGE="))
    assert base == "PYTHON_IMAGE=python:3.11-slim-bookworm"
    assert values("FROM") == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]


def test_only_the_sources_of_the_wheel_enter_the_build() -> None:
    rules = [
        line
        for line in (ROOT / "docker/Dockerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    allowed = [line.removeprefix("!") for line in rules if line.startswith("!")]
    assert rules[0] == "*"
    assert allowed == ["LICENSE", "README.md", "constraints.txt", "pyproject.toml", "index", "pipelines", "rag_clip"]
    assert [name for name in allowed if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("change", "code"), [(("", ""), 0), (("healthcheck:", "healthchek:"), 1), (("ports:", "port:"), 1)]
)
@pytest.mark.parametrize("name", ["compose.yaml", "compose.cluster.yaml"])
def test_the_schema_of_compose_accepts_its_files(name: str, change: tuple[str, str], code: int, tmp_path: Path) -> None:
    check = pytest.importorskip("check_jsonschema", reason="needs check-jsonschema")
    (tmp_path / name).write_text((ROOT / "docker" / name).read_text().replace(*change))
    command = ["--builtin-schema", "vendor.compose-spec", str(tmp_path / name)]
    assert check.main(command, standalone_mode=False) == code


def test_qdrant_is_pinned_to_the_minor_version_of_the_client() -> None:
    name, tag = SERVICES["qdrant"]["image"].split(":")
    assert re.fullmatch(r"v\d+\.\d+\.\d+", tag)
    assert (name, tag.split(".")[:2]) == ("qdrant/qdrant", f"v{version('qdrant-client')}".split(".")[:2])


def test_qdrant_is_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:6333:6333", "127.0.0.1:6334:6334"]


def test_the_api_key_comes_from_the_environment_and_is_required() -> None:
    required = r"\$\{QDRANT_API_KEY:\?.+\}"
    assert re.fullmatch(required, SERVICES["qdrant"]["environment"]["QDRANT__SERVICE__API_KEY"])
    assert re.fullmatch(required, SERVICES["engine"]["environment"]["QDRANT_API_KEY"])


def test_collections_live_in_a_named_volume() -> None:
    assert SERVICES["qdrant"]["volumes"] == ["qdrant_storage:/qdrant/storage"]
    assert list(COMPOSE["volumes"]) == ["qdrant_storage"]


def test_the_engine_is_built_from_this_repository_and_waits_for_a_healthy_qdrant() -> None:
    build = SERVICES["engine"]["build"]
    assert (ROOT / "docker" / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    assert SERVICES["engine"]["depends_on"] == {"qdrant": {"condition": "service_healthy"}}
    assert SERVICES["engine-cuda"]["build"] == build


def test_every_node_of_the_cluster_is_the_qdrant_of_the_single_server() -> None:
    assert list(NODES) == ["qdrant-1", "qdrant-2", "qdrant-3"]
    for node in NODES.values():
        single = SERVICES["qdrant"]
        assert {key: node[key] for key in ("image", "restart", "security_opt", "healthcheck")} == {
            key: single[key] for key in ("image", "restart", "security_opt", "healthcheck")
        }
        assert node["environment"] == {"QDRANT__CLUSTER__ENABLED": "true", **single["environment"]}


def test_the_later_nodes_of_the_cluster_join_the_first_once_it_is_healthy() -> None:
    addresses = {name: f"http://{name}:6335" for name in NODES}
    first, *later = NODES
    join = ["--bootstrap", addresses[first]]
    assert NODES[first]["command"] == ["./qdrant", "--uri", addresses[first]]
    assert "depends_on" not in NODES[first]
    for name in later:
        assert NODES[name]["command"] == ["./qdrant", *join, "--uri", addresses[name]]
        assert NODES[name]["depends_on"] == {first: {"condition": "service_healthy"}}


def test_the_nodes_are_published_on_loopback_with_grpc_on_the_next_port_and_trust_only_their_network() -> None:
    published = [port.split(":") for node in NODES.values() for port in node["ports"]]
    assert {address for address, _host, _container in published} == {"127.0.0.1"}
    assert [(int(host), container) for _address, host, container in published] == [
        (first + step, f"{6333 + step}") for first in (6333, 6343, 6353) for step in (0, 1)
    ]


def test_each_node_keeps_its_shards_in_a_volume_of_its_own() -> None:
    volumes = [node["volumes"] for node in NODES.values()]
    assert volumes == [[f"{name}:/qdrant/storage"] for name in CLUSTER["volumes"]]
    assert CLUSTER["name"] != COMPOSE["name"]


@contextmanager
def server_answering(status: int) -> Iterator[int]:
    """Serve `status` for /readyz and 404 for the rest on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def run_health_check(port: int) -> bool:
    command, *arguments = SERVICES["qdrant"]["healthcheck"]["test"]
    arguments = [argument.replace("$$", "$").replace("6333", str(port)) for argument in arguments]
    assert command == "CMD"
    return subprocess.run(arguments, capture_output=True, timeout=10, check=False).returncode == 0


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_passes_only_when_qdrant_says_it_is_ready(status: int, healthy: bool) -> None:
    with server_answering(status) as port:
        assert run_health_check(port) is healthy


def test_the_health_check_fails_while_nothing_listens() -> None:
    with server_answering(200) as port:
        pass
    assert not run_health_check(port)


KUBERNETES: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "docker/kubernetes.yaml").read_text()))


def test_kubernetes_runs_the_qdrant_of_compose_and_the_engine_as_its_user() -> None:
    service, stateful, job = KUBERNETES
    (qdrant,), (engine,) = (each["spec"]["template"]["spec"]["containers"] for each in (stateful, job))
    assert [each["kind"] for each in KUBERNETES] == ["Service", "StatefulSet", "Job"]
    assert qdrant["image"] == SERVICES["qdrant"]["image"]
    assert stateful["spec"]["serviceName"] == service["metadata"]["name"]
    assert stateful["spec"]["template"]["metadata"]["labels"] == service["spec"]["selector"]
    assert {each["valueFrom"]["secretKeyRef"]["name"] for each in (qdrant["env"][0], engine["env"][0])} == {"qdrant"}
    assert job["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 1000
    assert engine["args"][engine["args"].index("--index") + 1] == f"http://{service['metadata']['name']}:6333"


def test_kubernetes_accepts_its_example() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    for document in KUBERNETES:
        validate.validate(document, "1.29", strict=True)
