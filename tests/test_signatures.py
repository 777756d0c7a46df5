"""No function outside the command line has so many parameters that a caller must look them up one by one."""

from __future__ import annotations

import ast

from test_architecture import MODULES

MOST_PARAMETERS = 8


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
