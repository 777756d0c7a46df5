"""What `import rag_clip` offers: which names, at what cost, and in how few lines a classifier is built."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rag_clip

VALUES = {"ClassEvidence", "Encoder", "Hit", "LabelSet", "PromptText", "Prompts", "Query", "Recipe", "Support"}
OF_JOBS = {
    "AlphaSearch",
    "Beside",
    "Columns",
    "Heads",
    "HubBank",
    "Images",
    "Machines",
    "Masks",
    "Naming",
    "OpenWorld",
    "Reuse",
    "Running",
    "Scoring",
    "ShardFolder",
    "Training",
    "Unlabelled",
}
OF_SUPPORT = {"Concentration", "ImageSearch", "ShotSettings", "Synthesis"}
READING = {
    "load_encoder",
    "load_painter",
    "load_recipe",
    "open_store",
    "read_evidence",
    "read_labels",
    "read_prompts",
    "read_support",
}
WRITING = {"write_labels", "write_prompts"}
JOBS = {
    "adapt_encoder",
    "build_index",
    "classify",
    "discover",
    "enhance",
    "evaluate",
    "evaluate_captions",
    "evaluate_masks",
    "evaluate_retrieval",
    "explain",
    "explore_names",
    "explore_prompts",
    "export_classifier",
    "index_images",
    "merge_models",
    "plan_index",
    "search",
    "segment_images",
}
HEADS = {"learn_prompts", "prepare_head"}
SUPPORT = {
    "merge_support_files",
    "retrieve_support",
    "support_evidence",
    "support_from_corrections",
    "support_from_shots",
    "synthesise_support",
}
OTHERS = {"ProgressEvent", "RagClipError", "__version__", "silent"}


def typed_names() -> set[str]:
    """Return the names that type checkers see: those imported or declared under TYPE_CHECKING."""
    tree = ast.parse(Path(str(rag_clip.__file__)).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.asname for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    declared = {
        node.target.id for node in guarded.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return {str(name) for name in imported | declared}


def test_the_public_names_are_these() -> None:
    assert set(rag_clip.__all__) == {
        *(*VALUES, *OF_JOBS, *OF_SUPPORT, *READING, *WRITING),
        *(*JOBS, *HEADS, *SUPPORT, *OTHERS),
    }


def test_type_checkers_see_the_public_names() -> None:
    assert typed_names() == set(rag_clip.__all__)


def test_every_public_name_is_listed_before_it_is_used() -> None:
    assert set(rag_clip.__all__) <= set(dir(rag_clip))


def test_every_public_name_is_the_one_of_its_home() -> None:
    from rag_clip.pipelines.evaluate import evaluate

    assert rag_clip.evaluate is evaluate
    assert [name for name in rag_clip.__all__ if not hasattr(rag_clip, name)] == []


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert rag_clip.__version__ == version("rag-clip")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rag_clip' has no attribute 'clasify'"):
        rag_clip.clasify  # noqa: B018


def test_importing_the_package_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = {*sys.modules, *sys.stdlib_module_names}; import rag_clip;"
        "print({name for name in sys.modules if name.split('.')[0] not in before})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("{'rag_clip'}\n", "")
