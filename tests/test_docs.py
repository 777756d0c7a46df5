"""The documents are true: their blocks run, links lead somewhere, and every method and verb is named.

A block of `python`, or of `bash` or `console` lines that call rag-clip, is run in the order of its page: the README's
in an empty folder, those of docs/ in a copy of the folder that the README leaves. In a `console` block the commands
follow `$ ` and the rest is output. A comment on the line above a block says more of it:

    <!-- no-test: needs a server -->    why a block is not run; every other shell block must say it
    <!-- file: recipe.toml -->          the block is written to this file before the blocks below it run
    <!-- output -->                     the block is what the block above it prints
    <!-- needs: inflect -->             the block is run where this package of an extra is installed
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest

from inputs.folders import ROOT, copy_folder
from rag_clip.classifiers.heads import HEADS
from rag_clip.cli import app

README = (ROOT / "README.md").read_text()
METHODS_PAGE = (ROOT / "docs" / "methods.md").read_text()
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "index/README.md", *(f"docs/{name}" for name in PAGES)]
VERBS = (
    *(
        "adapt",
        "demo",
        "index",
        "enhance",
        "classify",
        "explain",
        "export",
        "discover",
        "segment",
        "merge",
        "search",
        "serve",
        "support",
        "heads",
        "learn",
        "evaluate",
    ),
)
OUTPUT = ("", "text", "json", "toml")
METHODS = ("corpus", "prompts", "support", "classifiers", "training/objectives", "refinement")
NO_METHODS = (  # what the folders of methods hold beside them
    *("prompts/enhance.py", "prompts/evidence.py", "prompts/naming.py", "prompts/recipe.py", "prompts/retrieval.py"),
    *("support/candidates.py",),
    *("support/diffusers_painter.py", "support/drawn.py", "support/known.py", "support/painters.py"),
    *("support/paintings.py", "classifiers/heads.py", "classifiers/match.py", "classifiers/prepared.py"),
    *("classifiers/reuse.py", "classifiers/head_list.py", "classifiers/linear.py"),
)
MOST_README_LINES = 120
BLOCK = re.compile(r"(?:<!-- (?P<note>.+?) -->\n+)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
RAG_CLIP = shutil.which("rag-clip", path=Path(sys.executable).parent)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and the comment above it."""

    language: str
    body: str
    note: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, continued lines joined, output and comments left out."""
        lines = re.sub(r"\\\n\s*", "", self.body).splitlines()
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip() and not line.startswith("#")]

    @property
    def excused(self) -> bool:
        """Whether the block says why it is not run."""
        return self.note.startswith("no-test: ")

    @property
    def runs(self) -> bool:
        """Whether the block is run as written."""
        if self.language in {"bash", "console"}:
            programs = {command.split()[0] for command in self.commands}
            return not self.excused and programs == {"rag-clip"}
        return not self.excused and self.language == "python"


def blocks(text: str) -> list[Block]:
    return [Block(match["language"], match["body"], match["note"] or "") for match in BLOCK.finditer(text)]


def run_command(command: str) -> str:
    """Run a command in this process, since most of a short command is loading torch; return what it printed."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        try:
            code = app(shlex.split(command)[1:], result_action="return_value")
        except SystemExit as end:
            code = end.code
    assert not code, f"{command}: exit code {code}: {errors.getvalue()[-2000:]}"
    return out.getvalue()


def run_script(folder: Path) -> str:
    with redirect_stdout(StringIO()) as out:
        runpy.run_path(str(folder / "block.py"), run_name="__main__")
    return out.getvalue()


def run_program(folder: Path) -> str:
    """Run the script as a user does, in a process of its own, without a `__main__` guard."""
    command = [sys.executable, "block.py"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_page(text: str, folder: Path, *, programs: bool = False) -> None:
    """Run the blocks of a page in `folder`; Python blocks in this process, or as programs of their own."""
    printed = ""
    with chdir(folder):
        for block in blocks(text):
            if block.note.startswith("needs: ") and find_spec(block.note.removeprefix("needs: ")) is None:
                continue
            if block.note.startswith("file: "):
                (folder / block.note.removeprefix("file: ")).write_text(block.body)
            elif block.note == "output":
                assert printed == block.body
            elif block.runs and block.language == "python":
                (folder / "block.py").write_text(block.body)
                printed = run_program(folder) if programs else run_script(folder)
            elif block.runs:
                printed = "".join(map(run_command, block.commands))


@pytest.fixture(scope="module")
def readme_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the README's blocks leave: captions, images, labels, index, prompts, predictions."""
    folder = tmp_path_factory.mktemp("readme")
    run_page(README, folder, programs=True)
    return folder


def test_blocks_are_read_with_their_notes_and_commands() -> None:
    skipped = "<!-- no-test: needs make -->\n```bash\nmake demo\n```\n"
    made, shown = blocks(f"{skipped}text\n```console\n$ rag-clip a \\\n    --b\noutput\n```\n")
    assert (made.language, made.commands, made.note, made.runs) == ("bash", ["make demo"], "no-test: needs make", False)
    assert (shown.commands, shown.note, shown.runs) == (["rag-clip a --b"], "", True)


def test_a_page_writes_its_files_and_compares_its_output(tmp_path: Path) -> None:
    script = "import pathlib\nprint(pathlib.Path('a.txt').read_text(), end='')"
    page = f"<!-- file: a.txt -->\n```text\nseven\n```\n```python\n{script}\n```\n"
    run_page(f"{page}<!-- output -->\n```text\nseven\n```\n", tmp_path)
    with pytest.raises(AssertionError):
        run_page(f"{page}<!-- output -->\n```text\neight\n```\n", tmp_path)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_every_block_of_code_is_run_or_says_why_not(document: str) -> None:
    code = [block for block in blocks((ROOT / document).read_text()) if block.language not in OUTPUT]
    assert [block.body for block in code if not block.runs and not block.excused] == []


def test_a_block_that_needs_a_package_runs_only_where_it_is_installed(tmp_path: Path) -> None:
    page = "<!-- needs: {} -->\n```python\nimport pathlib\npathlib.Path('{}').touch()\n```\n"
    run_page(page.format("json", "ran") + page.format("no_such_package", "never"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"block.py", "ran"}


def test_readme_blocks_run_as_written(readme_folder: Path) -> None:
    written = {path.name for path in readme_folder.iterdir()}
    assert {"captions-index", "prompts.parquet", "predictions.parquet", "prompts.json"} <= written


@pytest.mark.parametrize(
    "page", [name for name in PAGES if any(b.runs for b in blocks((ROOT / "docs" / name).read_text()))]
)
def test_blocks_of_a_page_run_as_written(page: str, readme_folder: Path, tmp_path: Path) -> None:
    copy_folder(readme_folder, tmp_path)
    run_page((ROOT / "docs" / page).read_text(), tmp_path)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MOST_README_LINES


def test_the_readme_helps_to_choose_every_head() -> None:
    table = README.split("## Choose a head")[1].split("## Speed")[0]
    assert [name for name in HEADS if f"`{name}`" not in table] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_files_lead_to_files(document: str) -> None:
    text = re.sub(BLOCK, "", (ROOT / document).read_text())
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (ROOT / document).parent.joinpath(target).exists()] == []


def test_the_site_has_every_page_in_its_navigation() -> None:
    named = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text().split("nav:")[1])
    assert sorted(named) == PAGES


def test_every_method_file_is_in_the_table_of_methods() -> None:
    files = [path for folder in METHODS for path in sorted((ROOT / "rag_clip" / folder).glob("[!_]*.py"))]
    names = [f"{path.parent.name}/{path.name}" for path in files]
    assert [name for name in names if name not in METHODS_PAGE and name not in NO_METHODS] == []


def test_every_file_in_the_table_of_methods_is_there() -> None:
    rows = [line.split("|")[3] for line in METHODS_PAGE.splitlines() if line.startswith("|")]
    files = [name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)]
    assert [name for name in files if not (ROOT / "rag_clip" / name).exists()] == []


def test_help_lists_every_verb() -> None:
    result = subprocess.run([str(RAG_CLIP), "--help"], capture_output=True, text=True, check=True)
    assert [verb for verb in VERBS if not re.search(rf"^\W*{verb}\b", result.stdout, re.M)] == []
