"""What every verb refuses to write over. A verb without a row in VERBS or WITHOUT_OUTPUT fails here."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cyclopts import App

from rag_clip.cli import app
from rag_clip.data import LabelSet
from rag_clip.files.lock import lock_of, locked
from rag_clip.files.prompts import write_prompts
from rag_clip.prompts.templates import template_prompts

NO_MODEL = ("--model", "local-dir:weights")  # no model can be loaded from there: what is refused, is refused before
LABELLED = ("images.parquet", "--labels", "labels.txt")


@dataclass(frozen=True)
class Row:
    """A command without its outputs: the options that name files, those that name folders, a good suffix of files."""

    arguments: tuple[str, ...]
    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    suffix: str = ".parquet"

    def outputs(self) -> dict[str, str]:
        """Name a fresh place for each option."""
        places = {option: f"new{number}{self.suffix}" for number, option in enumerate(self.files)}
        return places | {option: f"folder{number}" for number, option in enumerate(self.folders)}

    def command(self, **places: str) -> list[str]:
        """Return the arguments, with some outputs at other places; `_` in a name stands for a dash."""
        given = self.outputs() | {option.replace("_", "-"): place for option, place in places.items()}
        return [*self.arguments, *(part for pair in given.items() for part in pair if part != TARGET)]


TARGET = "(the last argument)"
CAPTIONS = ("captions.parquet", *NO_MODEL)
SUPPORTED = ("--support", "support.parquet", "--head", "ridge", "--head-options", "options.toml")
VERBS: dict[str, Row] = {
    "index build": Row((*CAPTIONS, "--schema", "schema.toml", "--cleaning", "rules.toml"), (), ("--index", "--shards")),
    "index embed": Row((*CAPTIONS, "--cleaning", "rules.toml:own"), (), ("--shards",)),
    "index load": Row(("shards",), (), ("--index",)),
    "index copy": Row(("index",), (), (TARGET,)),
    "index restore": Row(("images.parquet",), (), ("--index",)),
    "index images": Row(("images.parquet", *NO_MODEL), (), ("--index", "--shards")),
    "index download": Row(("urls.csv",), (), ("-o",)),
    "enhance": Row(("labels.txt", "--recipe", "recipe.toml", *NO_MODEL, "--compare", "images.parquet"), ("-o",)),
    "classify": Row(
        ("images.parquet", "--prompts", "prompts.parquet", *SUPPORTED, "--validation", "validation.parquet", *NO_MODEL),
        ("-o",),
        ("--features",),
    ),
    "learn": Row(
        ("support.parquet", "--prompts", "prompts.parquet", "--validation", "validation.parquet", *NO_MODEL),
        ("-o",),
        suffix=".safetensors",
    ),
    "evaluate": Row(
        (*LABELLED, "--prompts", "prompts.parquet", "--names", "names.txt", "--open", "names.txt", *NO_MODEL),
        ("-o", "--report"),
        ("--features",),
    ),
    "explain": Row(
        (
            *("--prompts", "prompts.parquet", "--images", "images.parquet", "--row", "0", "--before", "before.json"),
            *("--support", "support.parquet", "--refine", *NO_MODEL),
        ),
        ("--html",),
        ("--features",),
        suffix=".html",
    ),
    "adapt": Row(
        ("images.parquet", "--prompts", "prompts.parquet", "--settings", "options.toml", *NO_MODEL),
        (),
        ("-o", "--pixels"),
    ),
    "merge": Row(
        (
            *("weights", "--patch", "images.parquet", "prompts.parquet"),
            *("--supported", "validation.parquet", "before.json", *NO_MODEL),
        ),
        (),
        ("-o",),
    ),
    "export": Row(
        (
            *("prompts.parquet", "--support", "support.parquet", "--head", "gaussian"),
            *("--head-options", "options.toml", "--validation", "validation.parquet", *NO_MODEL),
        ),
        ("-o",),
        suffix=".npz",
    ),
    "discover": Row(
        ("images.parquet", "--index", "index", "--prompts", "prompts.parquet", *NO_MODEL),
        ("-o",),
        ("--features",),
        suffix=".toml",
    ),
    "segment": Row(
        ("images.parquet", "--prompts", "prompts.parquet", "--truth", "before.parquet", *NO_MODEL),
        ("-o",),
        ("--overlays",),
    ),
    "support shots": Row((*LABELLED, *NO_MODEL), ("-o", "--validation")),
    "support retrieve": Row(("prompts.parquet", "--index", "index", "--against", "images.parquet", *NO_MODEL), ("-o",)),
    "support merge": Row(("support.parquet", "validation.parquet"), ("-o",)),
    "support corrections": Row(
        ("urls.csv", "--images", "images.parquet", "--prompts", "prompts.parquet", *NO_MODEL), ("-o",)
    ),
    "support evidence": Row(("support.parquet", "validation.parquet"), ("-o",), suffix=".safetensors"),
    "support synthesise": Row(("prompts.parquet", "--painter", "demo", *NO_MODEL), ("-o",), ("--paintings",)),
    "demo": Row((), (), ("--out",)),
}
MORE = {
    "export --format": Row(("prompts.parquet", "--format", "clip-benchmark", *NO_MODEL), (), ("-o",)),
    "discover --html": Row(
        ("images.parquet", "--index", "index", "--prompts", "prompts.parquet", "-o", "names-new.toml", *NO_MODEL),
        ("--html",),
        suffix=".html",
    ),
    "enhance --html": Row(
        ("labels.txt", *NO_MODEL, "--recipe", "recipe.toml", "-o", "prompts-new.parquet"), ("--html",), suffix=".html"
    ),
    "evaluate --compare": Row(("--compare", "before.parquet", "after.parquet"), ("--report",)),
    "evaluate --retrieval": Row(("images.parquet", "--retrieval", *NO_MODEL), ("-o",), ("--shards",)),
    "evaluate --captioning": Row(("captions.parquet", "--captioning"), ("-o",)),
    "evaluate --segmentation": Row(("found.parquet", "--segmentation", "known.parquet"), ("-o",)),
    "explain --image": Row(
        ("cat", "--prompts", "prompts.parquet", "--image", "cat.png", "--support", "support.parquet", *NO_MODEL),
        ("--html",),
        suffix=".html",
    ),
}
ROWS = {**VERBS, **MORE}
WITHOUT_OUTPUT = {"index info", "index check", "index plan", "heads", "search", "serve"}
WITHOUT_OUTPUT |= {"index snapshot"}  # it replaces nothing, not even its own file: tests/store/test_snapshots.py
FILES = [(verb, option) for verb, row in ROWS.items() for option in row.files]
FOLDERS = [(verb, option) for verb, row in ROWS.items() for option in row.folders]


def verbs(of: App, above: tuple[str, ...] = ()) -> Iterator[str]:
    """List the verbs below an app."""
    for name in (name for name in of if not name.startswith("-")):
        if of[name].default_command is not None:
            yield " ".join((*above, name))
        yield from verbs(of[name], (*above, name))


def call(verb: str, arguments: list[str], folder: Path) -> tuple[int, str]:
    words = verb.partition(" --")[0].split()
    with chdir(folder), redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        code = app([*words, *arguments], result_action="return_value")
    return int(code), out.getvalue() + errors.getvalue()


def content(folder: Path) -> dict[str, str]:
    """Return a hash of every file, and the names of all else."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def inputs(row: Row, folder: Path) -> list[str]:
    """Return the arguments that are there, and the weights of the model."""
    named = [argument.partition(".toml:")[0] for argument in row.arguments]
    named = [f"{name}.toml" if (folder / f"{name}.toml").exists() else name for name in named]
    return [name for name in named if (folder / name).exists()] + ["weights"] * ("--model" in row.arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with something for every input."""
    images = pa.table({"image": [b"1", b"2"], "caption": ["a cat", "a dog"], "label": ["cat", "dog"]})
    for name in ("images", "captions", "support", "validation", "before", "after"):
        pq.write_table(images, tmp_path / f"{name}.parquet")
    labels = LabelSet(("cat", "dog"))
    write_prompts(template_prompts(labels), tmp_path / "prompts.parquet")
    write_prompts(template_prompts(labels), tmp_path / "before.json")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "names.txt").write_text("cow\nhen\n")
    (tmp_path / "recipe.toml").write_text("[templates]\nset = 'general'\n")
    (tmp_path / "rules.toml").write_text("[default]\n[own]\n")
    (tmp_path / "options.toml").write_text("")
    (tmp_path / "urls.csv").write_text("url,caption\nhttp://x/1,a\n")
    (tmp_path / "cat.png").write_bytes(b"png")
    (tmp_path / "schema.toml").write_text(Path("index/captions.toml").read_text())
    for name in ("index", "shards", "weights"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text("{}")
    return tmp_path


def test_every_verb_has_a_row() -> None:
    assert set(verbs(app)) == VERBS.keys() | WITHOUT_OUTPUT


@pytest.mark.parametrize(("verb", "option"), FILES + FOLDERS)
def test_an_input_is_never_written_over_whatever_its_name(verb: str, option: str, folder: Path) -> None:
    row = ROWS[verb]
    for number, name in enumerate(inputs(row, folder)):
        link, hard = folder / f"link{number}{row.suffix}", folder / f"hard{number}{row.suffix}"
        link.symlink_to(folder / name)
        spellings = [name, f"../{folder.name}/./{name}", str(folder / name), link.name]
        if (folder / name).is_file():
            os.link(folder / name, hard)
            spellings.append(hard.name)
        before = content(folder)
        for place in spellings:
            forced = (
                [] if verb in ("index load", "index copy", "index restore") else ["--force"]
            )  # without, less is written over
            for more in ([], forced) if place == name else (forced,):
                code, said = call(verb, [*row.command(**{option: place}), *more], folder)
                assert (code, content(folder)) == (1, before), (place, said)
                if place in (link.name, hard.name) and option in row.files and (folder / name).is_file():
                    assert "is one of the inputs" in said


@pytest.mark.parametrize(("verb", "option"), FILES)
def test_a_file_of_others_is_replaced_only_by_force(verb: str, option: str, folder: Path) -> None:
    row = ROWS[verb]
    place = f"mine{row.suffix}"
    (folder / place).write_text("my own words")
    before = content(folder)
    code, said = call(verb, row.command(**{option: place}), folder)
    assert (code, content(folder)) == (1, before)
    assert f"{place} exists and was not written by `rag-clip {verb.partition(' --')[0]}`" in said
    assert "mine" not in call(verb, [*row.command(**{option: place}), "--force"], folder)[1]


@pytest.mark.parametrize(("verb", "option"), FILES)
def test_a_folder_in_the_place_of_a_file_is_refused(verb: str, option: str, folder: Path) -> None:
    place = f"sub{ROWS[verb].suffix}"
    (folder / place).mkdir()
    before = content(folder)
    code, said = call(verb, [*ROWS[verb].command(**{option: place}), "--force"], folder)
    assert (code, content(folder)) == (1, before)
    assert place in said


@pytest.mark.parametrize(("verb", "option"), FOLDERS)
def test_a_folder_of_others_and_a_file_in_its_place_are_refused(verb: str, option: str, folder: Path) -> None:
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("words")
    before = content(folder)
    code, said = call(verb, ROWS[verb].command(**{option: "thesis"}), folder)
    assert (code, content(folder)) == (1, before)
    assert "thesis is not empty (chapter.tex) and not " in said
    code, said = call(verb, ROWS[verb].command(**{option: "thesis/chapter.tex"}), folder)
    assert (code, content(folder)) == (1, before)
    assert "thesis/chapter.tex is a file; name a folder" in said


@pytest.mark.parametrize(("verb", "option"), FILES)
def test_a_file_that_another_run_writes_is_left_to_it(verb: str, option: str, folder: Path) -> None:
    row = ROWS[verb]
    held = folder / row.outputs()[option]
    before = content(folder)
    with locked(lock_of(held), doing="test"):
        code, said = call(verb, row.command(), folder)
        assert code == 1
        assert f"cannot write {held.name}: process {os.getpid()} is at it; wait until it ends, or stop it" in said
    assert content(folder) == before


def test_the_lock_of_a_killed_run_blocks_nobody_and_is_removed(folder: Path) -> None:
    lock = lock_of(folder / "new0.parquet")
    program = (
        "import os, sys; from pathlib import Path; from rag_clip.files.lock import locked\n"
        "with locked(Path(sys.argv[1]), doing='test'): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(lock)], check=False)
    assert (killed.returncode, lock.read_text()[:8]) == (-9, "process ")
    code, said = call("classify", VERBS["classify"].command(), folder)
    assert (code, "is at it" in said, lock.exists()) == (1, False, False)


@pytest.mark.parametrize("name", ["report.html", "classes.html"])
def test_pages_of_others_are_not_replaced_by_those_of_the_demo(name: str, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / name).write_text("<h1>my own</h1>")
    before = content(folder)
    code, said = call("demo", ["--out", "out"], folder)
    assert (code, content(folder)) == (1, before)
    assert f"out/{name} exists and was not written by `rag-clip demo`; name another folder" in said


def test_the_page_of_evaluate_beside_its_output_is_not_written_over_one_of_others(folder: Path) -> None:
    (folder / "new0.html").write_text("<h1>my own</h1>")
    before = content(folder)
    code, said = call("evaluate", [*VERBS["evaluate"].arguments, "-o", "new0.parquet"], folder)
    assert (code, content(folder)) == (1, before)
    assert "new0.html exists and was not written by `rag-clip evaluate`" in said
