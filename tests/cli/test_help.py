"""The help of the verbs, and what is said of a command that was not understood."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from inputs.command_line import run
from rag_clip.cli import app
from rag_clip.cli.examples import EXAMPLES, EXIT_CODES, verbs

VERBS = dict(verbs(app))


def test_every_verb_has_an_example_and_every_example_a_verb() -> None:
    assert sorted(VERBS) == sorted(EXAMPLES)


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_a_verb_is_understood(verb: str) -> None:
    program, *tokens = shlex.split(EXAMPLES[verb])
    command, _, unused = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert (program, command, unused) == ("rag-clip", VERBS[verb].default_command, {})


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_describes_each_argument_and_ends_with_example_and_exit_codes(
    verb: str, tmp_path: Path
) -> None:
    arguments = [each for each in VERBS[verb].assemble_argument_collection() if not each.children]
    assert [each.name for each in arguments if not (each.parameter.help or "").endswith((".", "parquet", "json"))] == []
    shown = " ".join(run(*verb.split(), "--help", folder=tmp_path).out.split())
    assert shown.endswith(f"Example: {' '.join(EXAMPLES[verb].split())} {EXIT_CODES}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["enhance"], f"enhance: --output is missing; for example: {EXAMPLES['enhance']}"),
        (
            ["index", "build"],
            f"index build: CAPTIONS, --index and --model are missing; for example: {EXAMPLES['index build']}",
        ),
        (["index", "load", "--index", "x"], f"index load: SHARDS is missing; for example: {EXAMPLES['index load']}"),
        (
            ["classify", "--model", "demo", "-o"],
            f"classify: the value of -o, IMAGES and --prompts are missing; for example: {EXAMPLES['classify']}",
        ),
        (
            ["enhance", "--modl", "x"],
            "enhance: unknown option: --modl. Did you mean --model? see rag-clip enhance --help",
        ),
        (["index", "info", "a", "b"], "index info: unexpected argument 'b'; see rag-clip index info --help"),
        (
            ["index", "check", "a", "--k", "two"],
            'index check: invalid value for --k: unable to convert "two" into int; see rag-clip index check --help',
        ),
    ],
)
def test_a_command_that_is_not_understood_is_answered_in_one_line(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    answer = run(*arguments, folder=tmp_path)
    assert (answer.code, answer.out, answer.errors) == (2, "", f"rag-clip {said}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_verbs_and_options(shell: Any) -> None:
    script = app.generate_completion(shell=shell)
    assert [word for word in ("classify", "support", "synthesise", "top-k", "retry-failed") if word not in script] == []


def test_long_lists_of_options_stand_in_groups(tmp_path: Path) -> None:
    def groups(verb: str) -> list[str]:
        return re.findall(r"╭─ ([\w ]+) ─", run(*verb.split(), "--help", folder=tmp_path).out)

    assert groups("classify") == ["Arguments", "Parameters", "Encoder", "Head", "Columns", "Running"]
    assert groups("enhance") == [
        "Arguments", "Parameters", "Encoder", "Captions found", "Comparing", "Columns", "Running"
    ]  # fmt: skip
    assert groups("evaluate") == ["Arguments", "Parameters", "Encoder", "Head", "Tasks", "Columns", "Running"]
    for verb, one in VERBS.items():
        groups_of = [each.parameter.group for each in one.assemble_argument_collection() if not each.children]
        sizes = Counter(group[0].name for group in groups_of if isinstance(group, tuple))
        assert max(sizes.values()) <= 14, (verb, sizes)
