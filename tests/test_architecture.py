"""The rules of CONTRIBUTING.md on imports, names and sizes, read from the syntax trees."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from inputs.folders import ROOT

FOLDERS = {"rag_clip": ROOT / "rag_clip", "rag_clip.pipelines": ROOT / "pipelines", "rag_clip.index": ROOT / "index"}
METHODS = {"prompts", "support", "classifiers", "objectives", "refinement"}
LAYERS: tuple[set[str], ...] = (
    {"index", "display", "data", "protocols", "progress", "progress_line", "errors", "words"},
    {"files", "models", "store", "corpus", "metrics", "training"},
    {"captions", "images", "demo"} | METHODS,
    {"evaluation", "report"},
    {"", "given", "pipelines", "cli", "web", "testing", "__main__"},
)
SHARED = (  # of method folders, by others
    "rag_clip.classifiers.zero_shot.",
    "rag_clip.classifiers.likelihoods.",
    "rag_clip.prompts.knowledge.names.",
    "rag_clip.prompts.retrieved.",
)
MOST_PARAMETERS = 8
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


def read_modules() -> dict[str, tuple[Path, ast.Module]]:
    """Read every module as dotted name -> (path, syntax tree)."""
    return {
        ".".join((top, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): (
            path,
            ast.parse(path.read_text(), filename=str(path)),
        )
        for top, folder in FOLDERS.items()
        for path in sorted(folder.rglob("*.py"))
    }


MODULES = read_modules()


def imports(name: str, *, relative: bool = True) -> set[str]:
    """List what a module imports anywhere in it, `from a import b` as a.b, with or without relative imports."""
    path, tree = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (relative or not node.level):
            parents = package[: len(package) - node.level + 1] if node.level else []
            source = [*parents, *([node.module] if node.module else [])]
            found |= {".".join([*source, alias.name]) for alias in node.names}
    return found


def part(name: str) -> str:
    """Name the file or folder directly below rag_clip that a module belongs to."""
    return [*name.split("."), ""][1]


def edges() -> list[tuple[str, str]]:
    """List the imports between different parts of RAG-CLIP as (module, what it imports)."""
    return [
        (name, target)
        for name in MODULES
        for target in sorted(imports(name))
        if target.split(".")[0] == "rag_clip" and part(target) != part(name)
    ]


def importers(*packages: str) -> set[str]:
    return {name for name in MODULES if any(target.split(".")[0] in packages for target in imports(name))}


def calls(tree: ast.Module) -> list[str]:
    """List the last names of what a module calls: `print` for print(...), `cuda` for x.cuda()."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "") for node in functions]


def test_every_part_has_its_layer() -> None:
    assert {part(name) for name in MODULES} - set(RANK) == set()


def test_imports_point_to_the_same_layer_or_a_lower_one() -> None:
    assert [edge for edge in edges() if RANK[part(edge[1])] > RANK[part(edge[0])]] == []


def test_parts_of_a_layer_import_one_another_one_way() -> None:
    needs: dict[str, set[str]] = {}
    for name, target in edges():
        needs.setdefault(part(name), set()).add(part(target))
    assert list(TopologicalSorter(needs).static_order())


def test_method_folders_share_only_what_is_named_here() -> None:
    between = [edge for edge in edges() if {part(name) for name in edge} <= METHODS]
    assert [edge for edge in between if not edge[1].startswith(SHARED)] == []


def test_only_the_encoder_and_the_training_of_the_demo_import_open_clip() -> None:
    assert importers("open_clip") <= {"rag_clip.models.open_clip", "rag_clip.demo.train"}


def test_only_the_store_imports_qdrant() -> None:
    assert {part(name) for name in importers("qdrant_client", "qdrant_edge")} <= {"store"}


def test_pipelines_import_their_siblings_relatively() -> None:
    pipelines = [name for name in MODULES if part(name) == "pipelines"]
    absolute = {target for name in pipelines for target in imports(name, relative=False)}
    assert {target for target in absolute if target.split(".")[0] in {"pipelines", "index"}} == set()
    assert {target for target in absolute if part(target) == "pipelines"} == set()


def test_the_device_is_never_chosen_by_a_cuda_call() -> None:
    assert [name for name, (_, tree) in MODULES.items() if "cuda" in calls(tree)] == []


def test_only_the_command_line_prints() -> None:
    assert {name for name, (_, tree) in MODULES.items() if "print" in calls(tree)} <= {
        "rag_clip.cli.run",
        "rag_clip.cli.console",
    }


def test_files_are_named_after_one_idea() -> None:
    vague = {"utils", "util", "common", "base", "helpers", "manager"}
    assert [name for name in MODULES if set(name.split(".")) & vague] == []


def test_every_name_in_all_exists() -> None:
    declared = {
        name: ast.literal_eval(node.value)
        for name, (_, tree) in MODULES.items()
        for node in tree.body
        if isinstance(node, ast.Assign) and "__all__" in [getattr(target, "id", "") for target in node.targets]
    }
    assert [
        f"{name}.{public}"
        for name, names in declared.items()
        for public in names
        if not hasattr(importlib.import_module(name), public)
    ] == []


def test_the_command_line_and_its_help_load_no_engine() -> None:
    heavy = {"torch", "polars", "open_clip", "qdrant_client", "qdrant_edge", "pyarrow", "numpy"}
    code = f"""
import sys
from rag_clip.cli import app

for words in ([], ["index"], ["search"], ["classify"], ["evaluate"]):
    app([*words, "--help"], result_action="return_value")
print(sorted({heavy} & set(sys.modules)), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout.count("Usage: rag-clip"), result.stderr) == (5, "[]\n")


def test_importing_jobs_loads_no_open_clip() -> None:
    jobs = [name for name in MODULES if part(name) == "pipelines" and not name.endswith((".demo", ".ray_actors"))]
    code = f"import sys, {', '.join(jobs)}; print(sorted({{'open_clip', 'torchvision', 'timm'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the parameters of a function, the object of a method apart."""
    positional = [*function.args.posonlyargs, *function.args.args]
    own = bool(positional) and positional[0].arg in ("self", "cls")
    return len(positional) + len(function.args.kwonlyargs) - own


def test_no_function_outside_the_command_line_has_more_than_eight_parameters() -> None:
    functions = [
        (f"{name}.{node.name}", parameters(node))
        for name, (_, tree) in MODULES.items()
        if not name.startswith("rag_clip.cli.")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 1000
    assert [each for each in functions if each[1] > MOST_PARAMETERS] == []
