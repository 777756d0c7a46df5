"""The documents are true: README's blocks run, links lead somewhere, and every method and verb is named.

A block of `python`, or of `bash` or `console` lines that call rag-clip, is run in the order of the page, all in one
folder; in a `console` block the commands follow `$ ` and the rest is output. Any other shell block says why it is
not run, in a comment on the line above: `<!-- no-test: needs a server -->`.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "index/README.md", "docs/decisions.md")
VERBS = ("demo", "index", "enhance", "classify", "explain", "search", "support", "heads", "learn", "evaluate")
OUTPUT = ("", "text", "json", "toml")
METHODS = ("corpus", "prompts", "support", "classifiers", "objectives", "batch")
BLOCK = re.compile(r"(?:<!-- no-test: (?P<reason>.+?) -->\n+)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
RUN_COMMANDS = """
import sys
from rag_clip.cli import main
if __name__ == "__main__":
    for sys.argv in COMMANDS:
        try:
            main()
        except SystemExit as end:
            if end.code:
                sys.exit(f"{sys.argv}: exit code {end.code}")
"""
RAG_CLIP = shutil.which("rag-clip", path=Path(sys.executable).parent)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and why it is not run, where it is not."""

    language: str
    body: str
    reason: str | None

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block, continued lines joined, output and comments left out."""
        lines = re.sub(r"\\\n\s*", "", self.body).splitlines()
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip() and not line.startswith("#")]

    @property
    def runs(self) -> bool:
        """Whether the block is run as written."""
        if self.language in {"bash", "console"}:
            programs = {command.split()[0] for command in self.commands}
            return self.reason is None and programs == {"rag-clip"}
        return self.reason is None and self.language == "python"


def blocks(text: str) -> list[Block]:
    return [Block(match["language"], match["body"], match["reason"]) for match in BLOCK.finditer(text)]


def run(block: Block, folder: Path) -> str:
    """Run a block in `folder`, in one process, since most of a short command is loading torch; return what failed."""
    program = block.body
    if block.language != "python":
        program = f"COMMANDS = {[shlex.split(command) for command in block.commands]}\n{RUN_COMMANDS}"
    (folder / "block.py").write_text(program)
    command = [sys.executable, "block.py"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return result.stderr if result.returncode else ""


def test_blocks_are_read_with_their_reasons_and_commands() -> None:
    skipped = "<!-- no-test: needs make -->\n```bash\nmake demo\n```\n"
    made, shown = blocks(f"{skipped}text\n```console\n$ rag-clip a \\\n    --b\noutput\n```\n")
    assert (made.language, made.commands, made.reason, made.runs) == ("bash", ["make demo"], "needs make", False)
    assert (shown.commands, shown.reason, shown.runs) == (["rag-clip a --b"], None, True)


def test_every_block_of_code_is_run_or_says_why_not() -> None:
    code = [block for block in blocks(README) if block.language not in OUTPUT]
    assert [block.body for block in code if not block.runs and block.reason is None] == []


def test_readme_blocks_run_as_written(tmp_path: Path) -> None:
    assert [run(block, tmp_path) for block in blocks(README) if block.runs] == [""] * 4


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if (ROOT / name).exists()])
def test_links_to_files_lead_to_files(document: str) -> None:
    text = re.sub(BLOCK, "", (ROOT / document).read_text())
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if target and not (ROOT / document).parent.joinpath(target).exists()] == []


def test_the_readme_names_every_method_file_in_a_table() -> None:
    table = "\n".join(line for line in README.splitlines() if line.startswith("|"))
    files = [path for folder in METHODS for path in sorted((ROOT / "rag_clip" / folder).glob("[!_]*.py"))]
    names = [f"{path.parent.name}/{path.name}" for path in files]
    assert [name for name in names if name not in table] == []


def test_help_lists_every_verb() -> None:
    result = subprocess.run([str(RAG_CLIP), "--help"], capture_output=True, text=True, check=True)
    assert [verb for verb in VERBS if not re.search(rf"^\W*{verb}\b", result.stdout, re.M)] == []
