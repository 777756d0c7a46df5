"""What the verbs say of what they did: in true words, with what to do next."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run
from inputs.photographs import photographs
from rag_clip.demo.concepts import concepts

NAMES = [concept.name for concept in concepts()[:3]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index of captions of which one is repeated, labels, and images of which one is broken."""
    folder = tmp_path_factory.mktemp("said")
    captions = [f"{NAMES[0]} by the road", f"{NAMES[1]}: a sign by the sea", f"{NAMES[0]} by the road", None]
    pq.write_table(pa.table({"caption": captions}), folder / "captions.parquet")
    (folder / "labels.txt").write_text("\n".join([*NAMES, "quux"]) + "\n")
    pq.write_table(pa.table({"image": [*photographs(3), b"none"]}), folder / "images.parquet")
    built = run("index", "build", "captions.parquet", "--index", "index", "--model", "demo", folder=folder)
    assert built.out.startswith("2 captions in index: 2 added, 1 repeated, 1 dropped of 4 read\n")
    return folder


def test_a_second_build_says_what_was_there(folder: Path) -> None:
    again = run("index", "build", "captions.parquet", "--index", "index", "--model", "demo", folder=folder)
    assert again.out.startswith("2 captions in index: 0 added, 1 repeated, 2 already there, 1 dropped of 4 read\n")


def test_recall_is_said_as_what_most_queries_reach(folder: Path) -> None:
    checked = run("index", "check", "index", "--queries", "2", "--k", "1", folder=folder)
    assert checked.out.startswith("recall@1 1.0000 over 2 queries (95 % of them reach 1.0000), served exact: p50 ")


def test_enhance_tells_missing_captions_from_those_not_trusted(folder: Path) -> None:
    made = run("enhance", "labels.txt", "--index", "index", "--model", "demo", "-o", "trusted.json", folder=folder)
    lines = made.out.splitlines()
    assert lines[0] == (
        "trusted.json: 4 classes, 4 texts, 0 of them mixed in; 2 classes without captions, 2 without trusted captions"
    )
    assert lines[1] == (
        "  the encoder does not know these names well (0.00): captions weigh up to 0.95, each class by its own evidence"
    )
    assert lines[2] == (
        f"  no usable caption names {NAMES[2]!r}, 'quux', so templates keep their weight; index captions that do, "
        "or give synonyms in the label file"
    )
    assert lines[3] == (
        f"  the captions of {NAMES[0]!r}, {NAMES[1]!r} are too few, or fit other classes as well, and were not "
        "trusted, so templates keep their weight; index more captions, or mix in all that are found with --recipe repe"
    )


def test_enhance_shows_texts_of_a_class_and_the_next_command(folder: Path) -> None:
    options = ["--index", "index", "--model", "demo", "--recipe", "repe", "-o", "made prompts.json"]
    made = run("enhance", "labels.txt", *options, folder=folder)
    lines = made.out.splitlines()
    assert lines[lines.index(f"texts of {NAMES[0]!r}, such as:") + 1] == f"  0.2500  {NAMES[0]} by the road"
    assert lines[-1] == (
        "next: rag-clip classify IMAGES --prompts 'made prompts.json' --index index -o predictions.parquet"
    )
    assert "separated" not in made.out


def test_classify_says_what_it_predicted_and_of_which_rows_it_is_least_sure(folder: Path) -> None:
    run("enhance", "labels.txt", "--recipe", "templates", "--model", "demo", "-o", "plain.json", folder=folder)
    options = ["--prompts", "plain.json", "--model", "demo", "-o", "out.parquet"]
    done = run("classify", "images.parquet", *options, folder=folder)
    table = pq.read_table(folder / "out.parquet").to_pylist()[:3]
    mean = sum(row["score"] for row in table) / 3
    least = min(range(3), key=lambda row: table[row]["score"])
    said = f"mean score {mean:.3f}; lowest: row {least} ({table[least]['label']} {table[least]['score']:.3f})"
    assert said in done.out
    counts = {row["label"]: sum(row["label"] == other["label"] for other in table) for row in table}
    for label, count in counts.items():
        assert f"{label} {count} {count / 3:.1%}" in [" ".join(line.split()) for line in done.out.splitlines()]
    assert f"{4 - len(counts)} of 4 classes got no image" in done.out
    facts = json.loads(run("classify", "images.parquet", *options, "--json", folder=folder).out)
    assert facts["predicted"]["classes"] == counts
    assert facts["predicted"]["mean_score"] == pytest.approx(mean)
    assert facts["predicted"]["lowest"][0]["row"] == least


def test_a_knowledge_file_that_describes_no_class_is_refused_with_the_nearest_names(folder: Path) -> None:
    near = f"{NAMES[0]}s"
    (folder / "cupl.json").write_text(json.dumps({near: ["A thing."], "zebra": ["An animal."]}))
    (folder / "described.toml").write_text('[described]\nfiles = ["cupl.json"]\n')
    failed = run(
        "enhance", "labels.txt", "--recipe", "described.toml", "--model", "demo", "-o", "x.json", folder=folder
    )
    assert (failed.code, failed.out) == (1, "")
    assert failed.errors.partition(" s\n")[2] == (
        f"rag-clip: cupl:cupl.json has none of the 4 classes; it has {near!r}, 'zebra' ({near!r} is near to "
        f"{NAMES[0]!r}); give a file of these classes, or its names as synonyms in the label file\n"
    )
    assert not (folder / "x.json").exists()


def test_a_synonym_file_that_names_no_class_is_refused(folder: Path) -> None:
    (folder / "synonyms.json").write_text(json.dumps({"zebra": ["equus"]}))
    (folder / "synonyms.toml").write_text('[synonyms]\nfiles = ["synonyms.json"]\n')
    options = ["--recipe", "synonyms.toml", "--index", "index", "--model", "demo", "-o", "x.json"]
    failed = run("enhance", "labels.txt", *options, folder=folder)
    assert failed.code == 1
    assert "synonyms.json has none of the 4 classes; it has 'zebra'; give a file of these classes" in failed.errors


def test_enhance_finds_plurals_of_names_where_asked(folder: Path) -> None:
    pytest.importorskip("inflect", reason="the extra plurals is not installed")
    captions = ["three geese by the road", "geese on a green field", "two tractors in mud", "a goose asleep in the sun"]
    pq.write_table(pa.table({"caption": captions}), folder / "farm.parquet")
    run("index", "build", "farm.parquet", "--index", "farm", "--model", "demo", folder=folder)
    (folder / "farm.txt").write_text("goose\ntractor\n")
    arguments = ["enhance", "farm.txt", "--index", "farm", "--model", "demo"]
    plain = run(*arguments, "-o", "plain.json", folder=folder)
    assert plain.out.startswith("plain.json: 2 classes, 2 texts, 0 of them mixed in; 1 class without captions")
    made = run(*arguments, "--plurals", "-o", "plurals.json", folder=folder)
    assert "; 0 classes without captions" in made.out.splitlines()[0]
    failed = run(*arguments, "--recipe", "repe", "--plurals", "-o", "x.json", folder=folder)
    assert failed.code == 1
    assert failed.errors.strip().endswith(
        "plurals are forms of whole names, but the filter is 'token'; use keep = 'phrase'"
    )
