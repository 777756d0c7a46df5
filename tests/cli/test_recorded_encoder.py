"""--model left out: each verb takes the encoder that its files record. A verb without a row in VERBS or NAMED fails."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cyclopts import App
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from inputs.command_line import run
from inputs.folders import copy_folder
from inputs.photographs import photographs
from rag_clip.cli import app
from rag_clip.cli.run import EncoderOptions
from rag_clip.demo.concepts import concepts
from rag_clip.files.learned_prompts import read_learned_prompts, write_learned_prompts
from rag_clip.pipelines.support_evidence import support_evidence

NAMES = [concept.name for concept in concepts()[:3]]
MODEL = "local-dir:weights"
RIDGE = "--support support.parquet --head ridge"
VERBS = {  # words of a command without --model: the verb, the files that record it
    "enhance": "labels.txt --index index -o OUT.json",
    "classify": "images.parquet --prompts prompts.json --workers 0 -o OUT.parquet",
    "classify, learned": "images.parquet --prompts learned.safetensors --workers 0 -o OUT.parquet",
    "classify, support": f"images.parquet --prompts by-hand.json {RIDGE} --workers 0 -o OUT.parquet",
    "classify, index": "images.parquet --prompts by-hand.json --index index --workers 0 -o OUT.parquet",
    "classify, evidence": "images.parquet --prompts by-hand.json --support sums.safetensors --workers 0 -o OUT.parquet",
    "learn": "support.parquet --prompts prompts.json --options coop.toml -o OUT.safetensors",
    "learn, support": "support.parquet --prompts by-hand.json --options coop.toml -o OUT.safetensors",
    "evaluate": "images.parquet --prompts prompts.json --workers 0 -o OUT.parquet",
    "evaluate, index": "images.parquet --labels labels.txt --index index --workers 0 -o OUT.parquet",
    "explain": "--prompts prompts.json --image first.png --html OUT.html",
    "discover": "images.parquet --index index --workers 0 -o OUT.toml",
    "segment": "images.parquet --prompts prompts.json --workers 0 -o OUT.parquet",
    "merge": "adapted --alpha 0.5 -o OUT",
    "export": "prompts.json -o OUT.safetensors",
    "export, support": "by-hand.json --support support.parquet --head priming -o OUT.npz",
    "search": "index --text kite --mode dense",
    "search, image": "index --image first.png",
    "support retrieve": "prompts.json --index pictures --workers 0 -o OUT.parquet",
    "support retrieve, index": "by-hand.json --index pictures --workers 0 -o OUT.parquet",
    "support corrections": "fixed.csv --images images.parquet --prompts prompts.json --workers 0 -o OUT.parquet",
    "support synthesise": "prompts.json --painter demo --steps 1 --per-class 2 --keep 1 -o OUT.parquet",
}
NAMED = {"adapt", "index build", "index embed", "index images", "support shots"}  # nothing they read records an encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a folder, and a file of every kind that it made."""
    folder = tmp_path_factory.mktemp("recorded")
    shutil.copytree(Path(str(files("rag_clip.demo"))) / "assets" / "model", folder / "weights")
    images = photographs(len(NAMES))
    (folder / "first.png").write_bytes(images[0])
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "coop.toml").write_text("[context]\nlength = 2\n[schedule]\nepochs = 1\n")
    captions = [f"a photo of {name}" for name in NAMES]
    (folder / "fixed.csv").write_text(f"row,label\n0,{NAMES[1]}\n")
    pq.write_table(pa.table({"image": images, "caption": captions, "label": NAMES}), folder / "images.parquet")
    for command in (
        "index embed images.parquet --text-column caption --shards shards",
        "index images images.parquet --index pictures --workers 0",
        "enhance labels.txt --recipe templates -o prompts.json",
        "support shots images.parquet --labels labels.txt -k 1 --workers 0 -o support.parquet",
        "learn support.parquet --prompts prompts.json --options coop.toml -o learned.safetensors",
        "adapt images.parquet --lock text --steps 2 --batch-size 3 --workers 0 -o adapted",
    ):
        assert run(*command.split(), "--model", MODEL, folder=folder)[0] == 0
    assert run("support", "evidence", "support.parquet", "-o", "sums.safetensors", folder=folder)[0] == 0
    assert run("index", "load", "shards", "--index", "index", folder=folder)[0] == 0
    document = json.loads((folder / "prompts.json").read_text())
    document["provenance"]["encoder"] = {}
    (folder / "by-hand.json").write_text(json.dumps(document))
    return folder


def command(row: str, output: str) -> list[str]:
    return [*row.partition(",")[0].split(), *VERBS[row].replace("OUT", output).split()]


def encoder_verbs(of: App, above: tuple[str, ...] = ()) -> Iterator[str]:
    """List the verbs with options of an encoder."""
    for name in (name for name in of if not name.startswith("-")):
        verb = of[name].default_command
        kind = get_type_hints(verb).get("encoder") if verb else None
        if kind is not None and issubclass(kind, EncoderOptions):
            yield " ".join((*above, name))
        yield from encoder_verbs(of[name], (*above, name))


def test_every_verb_with_an_encoder_has_a_row() -> None:
    assert set(encoder_verbs(app)) == {row.partition(",")[0] for row in VERBS} | NAMED


@pytest.mark.parametrize("row", VERBS)
def test_without_model_a_verb_does_as_with_the_model_its_files_record(folder: Path, row: str) -> None:
    number = list(VERBS).index(row)
    named = run(*command(row, f"named{number}"), "--model", MODEL, folder=folder)
    left_out = run(*command(row, f"out{number}"), folder=folder)
    assert (named[0], left_out[0]) == (0, 0), named[2] + left_out[2]
    assert re.search(rf"^loading the model {MODEL}: \d+\.\d s$", left_out[2], re.MULTILINE)
    said = [re.sub(r"\d+\.\d s|bottleneck: .*|\b(named|out)\d+", "", text).split() for _, text, _ in (named, left_out)]
    assert said[0] == said[1]
    for path in folder.glob(f"named{number}.*"):
        if path.suffix in (".parquet", ".json", ".safetensors"):
            assert recorded(path) == recorded(path.with_name(path.name.replace("named", "out"))) == [MODEL]


def recorded(path: Path) -> list[str]:
    """Return the models that an output says it was made with."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        text = str(table.schema.metadata) + str(
            table["settings"].to_pylist() if "settings" in table.column_names else ""
        )
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            text = str(file.metadata())
    else:
        text = path.read_text()
    return sorted(set(re.findall(r'"spec\\*": \\*"([^"\\]+)', text)))


def without_spec(folder: Path) -> None:
    """Make all records those of before the model's name was recorded."""
    cards = [folder / "index" / "card.json", folder / "pictures" / "card.json", folder / "adapted" / "adapt.json"]
    for path in (folder / "prompts.json", *cards):
        path.write_text(re.sub(r'"spec": "[^"]*"', '"spec": ""', path.read_text()))
    table = pq.read_table(folder / "support.parquet")
    metadata = {key: re.sub(rb'"spec": "[^"]*"', b'"spec": ""', value) for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "support.parquet")
    support_evidence(folder / "support.parquet", output=folder / "sums.safetensors")
    learned = read_learned_prompts(folder / "learned.safetensors")
    encoder = {**learned.provenance["encoder"], "spec": ""}
    write_learned_prompts(replace(learned, provenance={"encoder": encoder}), folder / "learned.safetensors")


def moved(folder: Path) -> None:
    (folder / "weights").rename(folder / "elsewhere")


def trained_on(folder: Path) -> None:
    weights = load_file(folder / "weights" / "open_clip_model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, folder / "weights" / "open_clip_model.safetensors")


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "old files": (without_spec, r"--model is missing, and the \w+ .*records none.* --model ViT-B-32:openai$|"
                  r"the prompts of prompts.json must be encoded; name the model$|^rag-clip: there are no prompts to"),
    "moved": (moved, r"no model in 'weights'.*; the .* records this model, so give --model if it has moved$"),
    "another model": (trained_on, r"local-dir:weights is now config .*, but the .* was made with config .*; give"),
}  # fmt: skip


@pytest.fixture(scope="module", params=CHANGES)
def altered(folder: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A copy of the folder whose records cannot be followed, and what is said of it; no verb writes to it."""
    alter, sentence = CHANGES[request.param]
    here = tmp_path_factory.mktemp("altered") / "copy"
    copy_folder(folder, here)
    alter(here)
    return here, sentence


@pytest.mark.parametrize("row", VERBS)
def test_a_record_that_cannot_be_followed_ends_in_one_sentence(altered: tuple[Path, str], row: str) -> None:
    here, sentence = altered
    before = files_of(here)
    code, out, errors = run(*command(row, "fresh"), folder=here)
    assert (code, out) == (1, "")
    assert re.search(sentence, errors.splitlines()[-1]), errors
    assert files_of(here) == before


def files_of(folder: Path) -> list[Path]:
    """List a folder, without the segments of its indexes: the engine tidies them where it was closed in haste."""
    return sorted(path for path in folder.rglob("*") if "shard" not in path.relative_to(folder).parts)


def test_the_weights_that_a_record_names_are_not_written_over(folder: Path) -> None:
    weights = folder / "weights" / "open_clip_model.safetensors"
    before = weights.read_bytes()
    words = f"learn support.parquet --prompts prompts.json -o {weights}".split()
    code, out, errors = run(*words, "--force", folder=folder)
    assert (code, out, weights.read_bytes() == before) == (1, "", True)
    assert errors.endswith("lies in the input folder weights; name a place outside it\n")
    assert "loading" not in errors


def test_evaluate_of_features_alone_loads_no_model(folder: Path) -> None:
    code, _, errors = run("evaluate", "images.parquet", "--labels", "labels.txt", "-o", "none.parquet", folder=folder)
    assert (code, errors.startswith("rag-clip: there are no prompts to measure on images; name the model")) == (1, True)


def test_text_alone_is_searched_by_words_without_a_model(folder: Path) -> None:
    code, out, errors = run("search", "index", "--text", NAMES[0], "--limit", "1", folder=folder)
    assert (code, errors, "a photo of" in out) == (0, "", True)


def test_a_damaged_record_is_named(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "prompts.json").read_text())
    document["provenance"]["encoder"] = ["demo"]
    (tmp_path / "odd.json").write_text(json.dumps(document))
    code, _, errors = run("explain", NAMES[0], "--prompts", str(tmp_path / "odd.json"), folder=folder)
    assert code == 1
    assert re.match(r"rag-clip: the prompts .*odd.json: its encoder is recorded as \"?\['demo'\]", errors)
