"""Count the house: files, lines, functions, words, and the modules that four ways through it enter.

A way is run on a few rows, and every call between modules of the package is noted once. `modules` are those entered,
`calls` the pairs of modules of which one calls the other, and `climbs` the pairs that go up to a higher layer of
tests/test_architecture.py, by callbacks, and by generators of a higher layer that a lower one draws on. Calls in other
processes and threads are not seen, nor the reports of progress.

    python tests/benchmarks/house.py [--calls]
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import FrameType

import polars as pl
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from test_architecture import FOLDERS, MODULES, RANK, ROOT, parameters, part  # type: ignore[import-not-found]

import rag_clip
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features

ASSETS = Path(str(files("rag_clip.demo"))) / "assets"
NO_WAY = {"progress", "progress_line", "errors", "words", "display", ""}


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def names(tree: ast.Module) -> Counter[str]:
    """Count the names that a module reads, alone or as attributes."""
    alone = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return alone + Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def comments(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    marks = ("# type:", "# noqa", "# fmt")
    return sum(token.type == tokenize.COMMENT and not token.string.startswith(marks) for token in tokens)


def count() -> dict[str, float]:
    texts = {path: path.read_text() for path, _ in MODULES.values()}
    lines = sum(len(text.splitlines()) for text in texts.values())
    defined = [(name, tree, node) for name, (_, tree) in MODULES.items() for node in tree.body if hasattr(node, "name")]
    outside = [
        parameters(function)
        for name, (_, tree) in MODULES.items()
        if not name.startswith("rag_clip.cli.")
        for function in functions(tree)
    ]
    private = [(tree, node.name) for _, tree, node in defined if node.name.startswith("_") and not is_class(node)]
    uses = {id(tree): names(tree) for _, tree in MODULES.values()}
    readme = (ROOT / "README.md").read_text()
    return {
        "files": len(texts),
        "lines": lines,
        "loose files under rag_clip": len(list((ROOT / "rag_clip").glob("*.py"))),
        "files in pipelines": len(list(FOLDERS["rag_clip.pipelines"].rglob("*.py"))),
        "private functions with one caller": sum(uses[id(tree)][name] == 1 for tree, name in private),
        "functions with more than six parameters": sum(number > 6 for number in outside),
        "functions with more than eight parameters": sum(number > 8 for number in outside),
        "public names": sum(not node.name.startswith("_") for _, _, node in defined),
        "names of import rag_clip": len(rag_clip.__all__),
        "README words": len(readme.split()),
        "comments per 100 lines": round(100 * sum(map(comments, texts.values())) / lines, 2),
        "test files": len(list((ROOT / "tests").rglob("test_*.py"))),
    }


def is_class(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef)


def module_of(frame: FrameType | None) -> str:
    """Return the module of a frame if it is on a way, else ""."""
    name = "" if frame is None else frame.f_globals.get("__name__", "")
    return name if name in MODULES and part(name) not in NO_WAY else ""


def in_import(frame: FrameType | None) -> bool:
    """Return whether a frame belongs to the import of a module."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") in MODULES:
            return True
        frame = frame.f_back
    return False


def watch(way: Callable[[], object]) -> dict[tuple[str, str], None]:
    """Run a way, and return the calls between modules, each once, in the order of the first."""
    calls: dict[tuple[str, str], None] = {}

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        callee = module_of(frame) if event == "call" else ""
        back = frame.f_back
        while callee and back is not None and not module_of(back):  # calls through other libraries, too
            back = back.f_back
        caller = module_of(back) if callee else ""
        if caller not in ("", callee) and not in_import(frame):
            calls[caller, callee] = None

    sys.setprofile(profile)
    try:
        way()
    finally:
        sys.setprofile(None)
    return calls


def ways(folder: Path) -> dict[str, Callable[[], object]]:
    """Return the four ways; each needs what those before it have made."""
    quiet = rag_clip.Running(0, report=rag_clip.silent)
    pl.read_parquet(ASSETS / "corpus.parquet").head(300).write_parquet(folder / "captions.parquet")
    pl.read_parquet(ASSETS / "validation.parquet").head(60).write_parquet(folder / "images.parquet")
    labels = rag_clip.read_labels(ASSETS / "labels.json")
    encoder = rag_clip.load_encoder("demo")
    index, support = folder / "index", folder / "support.parquet"
    made: dict[str, rag_clip.Prompts] = {}

    def enhance() -> None:
        made["prompts"] = rag_clip.enhance(labels, encoder=encoder, index=index, report=rag_clip.silent)

    def use_support() -> torch.Tensor:
        head = rag_clip.prepare_head("ridge", support, labels=labels, encoder=encoder, report=rag_clip.silent)
        classifier = head.build(zero_shot(made["prompts"], encoder))
        logits: torch.Tensor = classifier(Features(torch.eye(3, encoder.dim)))
        return logits

    def draw() -> None:
        rag_clip.support_from_shots(
            folder / "images.parquet", labels, output=support, encoder=encoder, k=2, running=quiet
        )

    return {
        "caption row to point": lambda: rag_clip.build_index(
            folder / "captions.parquet", index=index, encoder=encoder, running=quiet
        ),
        "label set to prompts": enhance,
        "image row to prediction": lambda: rag_clip.classify(
            folder / "images.parquet", prompts=made["prompts"], encoder=encoder, running=quiet
        ),
        "labelled images to support": draw,
        "support to logits": use_support,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", action="store_true", help="list the climbs of each way")
    options = parser.parse_args()
    for name, number in count().items():
        print(f"{name:45} {number:>8}")
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'way':30} {'modules':>8} {'calls':>8} {'climbs':>8}")
        for name, way in ways(Path(folder)).items():
            calls = watch(way)
            entered = {callee for _, callee in calls}
            climbs = [pair for pair in calls if RANK[part(pair[1])] > RANK[part(pair[0])]]
            print(f"{name:30} {len(entered):>8} {len(calls):>8} {len(climbs):>8}")
            for caller, callee in climbs if options.calls else ():
                print(f"    {caller} -> {callee}")


if __name__ == "__main__":
    main()
