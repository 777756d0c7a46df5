"""What is installed is what is in the tree, at the versions that constraints.txt pins."""

from __future__ import annotations

import ast
import io
import re
import runpy
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from inputs.folders import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text().splitlines()
CHECK = runpy.run_path(str(ROOT / ".ci/wheel_files.py"))


def declared_dependencies(*, development: bool) -> list[str]:
    """The requirements of the package and of its extras, with or without those of developers."""
    extras = PROJECT["project"]["optional-dependencies"].items()
    left_out = {"all"} if development else {"all", "dev", "docs"}
    chosen = [line for extra, lines in extras for line in lines if extra not in left_out]
    return [*PROJECT["project"]["dependencies"], *chosen]


def package_folders() -> dict[str, Path]:
    """Every package with its folder: the folders that hold Python files."""
    return {
        ".".join((top, *path.parent.relative_to(ROOT / folder).parts)): path.parent
        for top, folder in SETUPTOOLS["package-dir"].items()
        for path in (ROOT / folder).rglob("*.py")
    }


def test_the_packages_are_the_folders_on_disk() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(package_folders())


def test_every_file_that_is_not_python_is_package_data() -> None:
    folders = package_folders()
    covered = {
        path
        for name, globs in SETUPTOOLS["package-data"].items()
        for glob in globs
        for path in folders[name].glob(glob)
    }
    files = {path for folder in folders.values() for path in folder.rglob("*") if path.is_file()}
    left_out = {path for path in files - covered if path.suffix != ".py" and "__pycache__" not in path.parts}
    assert left_out == set()


def test_every_import_of_the_library_is_a_declared_dependency() -> None:
    trees = [ast.parse(path.read_text()) for folder in package_folders().values() for path in folder.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    absolute = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    imported = {name.split(".")[0] for name in absolute + plain} - sys.stdlib_module_names - {"rag_clip"}
    distributions = packages_distributions()
    declared = {canonicalize_name(Requirement(line).name) for line in declared_dependencies(development=False)}
    assert {
        name
        for name in imported
        if not {canonicalize_name(owner) for owner in distributions.get(name, [name])} & declared
    } == set()


def test_the_extra_all_names_every_extra_that_a_user_needs() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert Requirement(everything).extras == set(extras) - {"all", "dev", "docs"}


def test_constraints_hold_only_pinned_versions_each_package_once() -> None:
    assert [line for line in CONSTRAINTS if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line)] == []
    names = [canonicalize_name(line.split("==")[0]) for line in CONSTRAINTS]
    assert names == sorted(set(names))


def test_constraints_pin_every_dependency_within_its_range() -> None:
    pins = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in CONSTRAINTS)}
    lines = [*PROJECT["build-system"]["requires"], *declared_dependencies(development=True)]
    requirements = [Requirement(line) for line in lines]
    assert [str(line) for line in requirements if canonicalize_name(line.name) not in pins] == []
    assert [str(line) for line in requirements if not line.specifier.contains(pins[canonicalize_name(line.name)])] == []


def test_tracked_files_map_to_their_places_under_the_one_installed_name() -> None:
    tracked = ["rag_clip/data.py", "pipelines/classify.py", "index/captions.toml", "tests/test_data.py", "README.md"]
    assert CHECK["wheel_paths"](tracked, package_dir=SETUPTOOLS["package-dir"]) == {
        "rag_clip/data.py",
        "rag_clip/pipelines/classify.py",
        "rag_clip/index/captions.toml",
    }


def wheel_of(files: dict[str, bytes]) -> zipfile.ZipFile:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return zipfile.ZipFile(buffer)


def test_a_wheel_of_exactly_the_tracked_files_has_no_faults() -> None:
    wheel = wheel_of({"rag_clip/data.py": b"", "rag_clip-0.1.0.dist-info/top_level.txt": b"rag_clip\n"})
    assert CHECK["faults"](wheel, {"rag_clip/data.py"}) == []


def test_a_wheel_that_differs_from_the_tree_is_told_file_by_file() -> None:
    wheel = wheel_of(
        {
            "rag_clip/secret.py": b"",
            "rag_clip/demo/assets/corpus.parquet": bytes(25_000_001),
            "rag_clip-0.1.0.dist-info/top_level.txt": b"rag_clip\npipelines\n",
        }
    )
    assert CHECK["faults"](wheel, {"rag_clip/data.py", "rag_clip/demo/assets/corpus.parquet"}) == [
        "not in the wheel: rag_clip/data.py",
        "not tracked by git: rag_clip/secret.py",
        "top_level.txt is [['rag_clip', 'pipelines']], not rag_clip alone",
        "demo assets are 25000001 bytes; the limit is 25000000",
    ]
