"""The command line as its users meet it: its output and its exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from inputs.command_line import run
from inputs.photographs import photographs
from rag_clip.demo.concepts import concepts
from rag_clip.files.prompts import read_prompts

RAG_CLIP = str(shutil.which("rag-clip", path=Path(sys.executable).parent))
NAMES = [concept.name for concept in concepts()[:4]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with captions, labels, images (one of them broken), and an index built by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    captions = [f"{name}: a flag seen in town" for name in NAMES] + ["", None, "a red die"]
    pq.write_table(pa.table({"caption": captions}), folder / "captions.parquet")
    (folder / "labels.txt").write_text("\n".join(NAMES) + "\n")
    images = [*photographs(len(NAMES)), b"not an image"]
    pq.write_table(pa.table({"image": images, "number": list(range(5))}), folder / "images.parquet")
    built = run("index", "build", "captions.parquet", "--index", "index", "--model", "demo", folder=folder)
    assert built.code == 0
    assert re.match(r"loading the model demo: \d+\.\d s\n", built.errors)
    assert [line.partition(", in ")[0] for line in built.errors.splitlines()[1:]] == [
        "embed: 7 of 7 captions",
        "load: 5 of 5 captions",
        "postings: 5 of 5 captions",
    ]
    assert built.out.startswith("5 captions in index: 5 added, 2 dropped of 7 read\n")
    return folder


def test_building_again_adds_nothing(folder: Path) -> None:
    again = run("index", "build", "captions.parquet", "--index", "index", "--model", "demo", "--json", folder=folder)
    facts = json.loads(again.out)
    assert (facts["added"], facts["already_there"], facts["dropped"]) == (0, 5, {"empty": 1, "null": 1})
    assert facts["bottleneck"] in facts["seconds"]


def test_info_names_the_encoder_and_the_count(folder: Path) -> None:
    facts = json.loads(run("index", "info", "index", "--json", folder=folder).out)
    assert (facts["count"], facts["card"]["dim"], facts["card"]["encoder"]["precision"]) == (5, 128, "fp32")
    lines = run("index", "info", "index", folder=folder).out.splitlines()
    assert lines[0] == "5 captions in index: ready"
    assert lines[2].startswith("encoder: demo (open_clip_model.safetensors, weights ")
    assert lines[3] == "funnel: 7 read, empty 1, null 1, repeated 0, 5 kept"
    assert lines[4] == "last check: none; measure recall with: rag-clip index check index"


def test_a_dry_run_shows_rows_and_writes_nothing(folder: Path) -> None:
    options = ["--index", "dry", "--model", "demo", "--dry-run"]
    shown = run("index", "build", "captions.parquet", *options, folder=folder)
    assert shown.code == 0
    assert "row 6: 'a red die' -> a red die\n" in shown.out
    assert shown.out.endswith("of the first 7 rows, 5 would be kept; dropped: {'empty': 1, 'null': 1}\n")
    assert not (folder / "dry").exists()


def test_two_machines_embed_and_one_loads_checks_and_copies(folder: Path) -> None:
    for part in ("1/2", "2/2"):
        options = ["--shards", "shards", "--model", "demo", "--part", part]
        assert run("index", "embed", "captions.parquet", *options, folder=folder).code == 0
    loaded = run("index", "load", "shards", "--index", "second", folder=folder)
    assert loaded.out.startswith("5 captions in second: 5 added from 1 shard, 0 in it already\n")
    checked = run("index", "check", "second", "--queries", "5", "--k", "2", folder=folder)
    assert checked.out.startswith("recall@2 1.0000 over 5 queries")
    info = run("index", "info", "second", folder=folder).out
    assert info.endswith("last check: recall@2 1.0000, served exact\n")
    copied = run("index", "copy", "second", "third", folder=folder)
    assert copied.out == "5 rows in third, 5 of them compared with second\n"
    assert json.loads(run("index", "info", "third", "--json", folder=folder).out)["count"] == 5


def test_the_three_verbs_classify_images_and_report_the_broken_one(folder: Path) -> None:
    made = run(
        "enhance", "labels.txt", "--index", "index", "--model", "demo", "--recipe", "repe", "-o", "prompts.parquet",
        folder=folder,
    )  # fmt: skip
    assert made.code == 0
    assert made.out.startswith(
        "prompts.parquet: 4 classes, 8 texts, 4 of them mixed in; "
        "0 classes without captions, 0 without trusted captions\n"
        "class separation (lower is better)  uniformity  expected confusion\n"
    )
    assert "bottleneck: " in made.out
    done = run(
        "classify", "images.parquet", "--prompts", "prompts.parquet", "--model", "demo", "-o", "out.parquet",
        "--features", "features", folder=folder,
    )  # fmt: skip
    assert done.code == 3
    assert done.out.startswith("out.parquet: 5 rows, 1 failed; 5 decoded, 0 from cached features\n")
    table = pl.read_parquet(folder / "out.parquet")
    assert table.columns == ["image", "number", "label", "score", "top_k_labels", "top_k_scores", "error"]
    assert table["error"].is_null().to_list() == [True] * 4 + [False]
    assert set(table["label"][:4]) <= set(NAMES)
    again = run(
        "classify", "images.parquet", "--prompts", "prompts.parquet", "--model", "demo", "-o", "again.parquet",
        "--features", "features", "--json", folder=folder,
    )  # fmt: skip
    facts = json.loads(again.out)
    assert (again.code, facts["decoded"], facts["from_cache"], facts["failed"]) == (3, 0, 5, 1)


def test_prompts_can_be_edited_as_json(folder: Path) -> None:
    options = ["--recipe", "templates", "--model", "demo", "--format", "json"]
    made = run("enhance", "labels.txt", *options, "-o", "edit.parquet", folder=folder)
    assert made.code == 0
    assert [group[0].text for group in read_prompts(folder / "edit.json").texts] == [
        f"a photo of a {name}." for name in NAMES
    ]


def test_the_random_control_has_as_many_captions(folder: Path) -> None:
    options = ["--index", "index", "--model", "demo", "--recipe", "repe", "--control", "random", "--json"]
    facts = json.loads(run("enhance", "labels.txt", *options, "-o", "random.parquet", folder=folder).out)
    assert (facts["captions"], facts["provenance"]["method"]) == (4, "random")


def test_prompts_are_scored_beside_their_controls_on_labelled_images(folder: Path) -> None:
    pictures = pl.read_parquet(folder / "images.parquet").head(4).with_columns(name=pl.Series(NAMES))
    pictures.write_parquet(folder / "labelled.parquet")
    options = ["--index", "index", "--model", "demo", "--recipe", "repe", "--compare", "labelled.parquet"]
    options += ["--label-column", "name"]
    made = run("enhance", "labels.txt", *options, "-o", "compared.parquet", folder=folder)
    assert made.code == 0
    table = made.out[made.out.index("top-1, %") :].splitlines()
    assert [line.split()[0] for line in table[1:6]] == ["templates", "repe", "random", "waffle", "waffle_shared"]
    facts = json.loads(run("enhance", "labels.txt", *options, "-o", "compared.parquet", "--json", folder=folder).out)
    assert all(score["images"] in (0, 25, 50, 75, 100) for score in facts["compared"].values())
    wrong = run("enhance", "labels.txt", *options[:-1], "number", "-o", "compared.parquet", folder=folder)
    assert (wrong.code, "column 'number': 4 labels not among the" in wrong.errors) == (1, True)


def test_the_default_recipe_trusts_no_lone_caption(folder: Path) -> None:
    options = ["--index", "index", "--model", "demo", "-o", "default.parquet"]
    made = run("enhance", "labels.txt", *options, folder=folder)
    assert made.code == 0
    assert f"the captions of {', '.join(map(repr, NAMES))} are too few, or fit other classes as well" in made.out
    texts = read_prompts(folder / "default.parquet").texts
    assert [[text.text for text in group] for group in texts] == [[f"a photo of a {name}."] for name in NAMES]


@pytest.fixture(scope="module")
def supported(folder: Path) -> Path:
    """The folder with template prompts and a support file of one labelled picture a class."""
    pictures = pl.read_parquet(folder / "images.parquet").head(4).with_columns(name=pl.Series(NAMES))
    pictures.write_parquet(folder / "shots.parquet")
    run("enhance", "labels.txt", "--recipe", "templates", "--model", "demo", "-o", "plain.parquet", folder=folder)
    made = run(
        "support", "shots", "shots.parquet", "--labels", "labels.txt", "-k", "1", "--model", "demo",
        "--label-column", "name", "-o", "support.parquet", folder=folder,
    )  # fmt: skip
    assert made.code == 0
    return folder


def test_a_head_on_labelled_images_classifies(supported: Path) -> None:
    folder = supported
    options = ["--prompts", "plain.parquet", "--model", "demo", "--support", "support.parquet", "-o", "headed.parquet"]
    (folder / "head.toml").write_text("alpha = 50.0\nbeta = 20.0\n")
    headed = ["--head", "tip_adapter", "--head-options", "head.toml"]
    assert run("classify", "shots.parquet", *options, *headed, folder=folder).code == 0
    assert pl.read_parquet(folder / "headed.parquet")["label"].to_list() == NAMES
    default = run("classify", "shots.parquet", *options, folder=folder)
    assert (default.code, "head: ridge, the default with a support file" in default.out) == (0, True)
    lone = run("classify", "shots.parquet", *options[:4], "--head", "ridge", "-o", "lone.parquet", folder=folder)
    assert (lone.code, "the head 'ridge' needs a support file; give --support" in lone.errors) == (1, True)
    listed = json.loads(run("heads", "--json", folder=folder).out)
    assert listed["tip_adapter"]["settings"] == {"alpha": None, "beta": None, "mode": "balanced"}


def test_a_head_of_two_encoders_classifies_by_both(supported: Path) -> None:
    options = ["--prompts", "plain.parquet", "--model", "demo", "--support", "pictured.parquet", "-o", "both.parquet"]
    (supported / "como.toml").write_text("alpha = 50.0\nbeta = 20.0\n")
    both = ["--head", "como", "--head-options", "como.toml", "--second", "demo:second"]
    drawn = ["--labels", "labels.txt", "--label-column", "name", "-k", "1", "--model", "demo", "-o", "pictured.parquet"]
    assert run("support", "shots", "shots.parquet", *drawn, folder=supported).code == 0
    refused = run("classify", "shots.parquet", *options, *both, folder=supported)
    assert (refused.code, "make it again with --with-images" in refused.errors) == (1, True)
    assert run("support", "shots", "shots.parquet", *drawn, "--with-images", folder=supported).code == 0
    assert run("classify", "shots.parquet", *options, *both, folder=supported).code == 0
    assert pl.read_parquet(supported / "both.parquet")["label"].to_list() == NAMES
    facts = json.loads(pq.read_schema(supported / "both.parquet").metadata[b"rag_clip"])
    assert (facts["head"]["name"], facts["others"]["demo:second"]["model"]) == ("como", "timm demo:second")


def test_visual_prompts_are_learned_and_applied_in_one_go_or_by_their_file(supported: Path) -> None:
    folder = supported
    drawn = ["--labels", "labels.txt", "--label-column", "name", "-k", "1", "--model", "demo", "--force"]
    settings = "guided = 1\nlength = 2\ntop = 2\n[context]\nlength = 2\n[schedule]\nepochs = 2\nrate = 0.002\n"
    (folder / "dpt.toml").write_text(settings + 'optimiser = "sgd"\n')
    learned = ["learn", "seen.parquet", "--prompts", "plain.parquet", "--model", "demo", "--method", "dpt"]
    classified = ["classify", "shots.parquet", "--model", "demo", "--features", "features", "-o"]
    head = ["--prompts", "plain.parquet", "--support", "seen.parquet", "--head", "dpt", "--head-options", "dpt.toml"]

    assert run("support", "shots", "shots.parquet", *drawn, "-o", "seen.parquet", folder=folder).code == 0
    refused = run(*learned, "-o", "dpt.safetensors", folder=folder)
    assert (refused.code, "make it again with --with-images" in refused.errors) == (1, True)
    assert (
        run("support", "shots", "shots.parquet", *drawn, "--with-images", "-o", "seen.parquet", folder=folder).code == 0
    )
    made = run(*learned, "--options", "dpt.toml", "-o", "dpt.safetensors", folder=folder)
    said = "dpt.safetensors: 4 classes, one context for all classes of 2 vectors, and visual prompts\n"
    assert (made.code, made.out) == (0, said)
    assert run(*classified, "by-file.parquet", "--prompts", "dpt.safetensors", folder=folder).code == 0
    in_one = run(*classified, "in-one.parquet", *head, folder=folder)
    assert (in_one.code, "0 failed; 0 decoded" in in_one.out) == (0, True)  # the features of the same prompts are kept
    frozen = run(*classified, "frozen.parquet", "--prompts", "plain.parquet", folder=folder)
    assert "0 from cached features" in frozen.out  # those of the frozen tower are stored apart
    by_file, by_head, plain = (
        pl.read_parquet(folder / name) for name in ("by-file.parquet", "in-one.parquet", "frozen.parquet")
    )
    assert by_file["score"].to_list() == by_head["score"].to_list() != plain["score"].to_list()
    facts = json.loads(pq.read_schema(folder / "in-one.parquet").metadata[b"rag_clip"])
    assert (facts["head"]["name"], facts["head"]["floor"]) == ("dpt", False)

    both = run(*classified, "no.parquet", *head[2:4], "--prompts", "dpt.safetensors", folder=folder)
    assert (both.code, "the image tower that these prompts change; leave one of them out" in both.errors) == (1, True)
    opened = run(*classified, "no.parquet", *head, "--open", "--negatives", "labels.txt", folder=folder)
    assert (opened.code, "novelty reads features of the image tower that visual" in opened.errors) == (1, True)
    (folder / "other.parquet").write_bytes((folder / "plain.parquet").read_bytes())
    several = run(*classified, "no.parquet", "--prompts", "plain.parquet", "other.parquet", *head[2:], folder=folder)
    assert (several.code, "dpt learns from one prompts file; give one" in several.errors) == (1, True)
    measured = ["evaluate", "shots.parquet", "--label-column", "name", "--prompts", "plain.parquet", "--model", "demo"]
    refused = run(*measured, "--support", "seen.parquet", "--head", "dpt", "-o", "no.parquet", folder=folder)
    assert (refused.code, "dpt changes the image tower" in refused.errors) == (1, True)


def test_learned_words_classify_like_any_prompts(supported: Path) -> None:
    folder = supported
    options = ["--prompts", "plain.parquet", "--model", "demo", "-o", "learned.safetensors"]
    (folder / "coop.toml").write_text("[context]\nlength = 2\n[schedule]\nepochs = 2\nrate = 0.002\n")
    made = run("learn", "support.parquet", *options, "--options", "coop.toml", folder=folder)
    assert (made.code, made.out) == (
        0, "learned.safetensors: 4 classes, one context for all classes of 2 vectors\n",
    )  # fmt: skip
    done = run(
        "classify", "shots.parquet", "--prompts", "learned.safetensors", "--model", "demo", "-o", "by-learned.parquet",
        folder=folder,
    )  # fmt: skip
    assert done.code == 0
    assert set(pl.read_parquet(folder / "by-learned.parquet")["label"]) <= set(NAMES)
    metadata = pq.read_schema(folder / "by-learned.parquet").metadata
    assert json.loads(metadata[b"rag_clip"])["prompts"]["method"] == "coop"
    wrong = run("learn", "support.parquet", *options[:-1], "learned.parquet", folder=folder)
    assert (wrong.code, ".safetensors" in wrong.errors) == (1, True)


def test_a_recipe_in_a_file_is_followed_and_its_retrieval_overridden(folder: Path) -> None:
    (folder / "mine.toml").write_text('[templates]\nset = "general"\n[retrieved]\nweight = 0.5\n')
    options = ["--index", "index", "--model", "demo", "--recipe", "mine.toml", "--captions", "2", "--json"]
    facts = json.loads(run("enhance", "labels.txt", *options, "-o", "mine.parquet", folder=folder).out)
    retrieved = facts["provenance"]["settings"]["retrieved"]
    assert (retrieved["weight"], retrieved["limit"], facts["texts"]) == (0.5, 2, 4 * 8)
    refused = run(
        "enhance", "labels.txt", "--recipe", "templates", "--captions", "2", "--model", "demo", "-o", "x.json",
        folder=folder,
    )  # fmt: skip
    assert (refused.code, "recipe 'templates' retrieves no captions" in refused.errors) == (1, True)


def test_names_of_any_script_and_with_braces_pass_through_the_three_verbs(folder: Path) -> None:
    names = ["a {} die", "{0}", "🐱 die", "قطة", "熊猫", "[bold]x[/bold] :cat:"]
    (folder / "odd.txt").write_text("\n".join(names), encoding="utf-8")
    made = run("enhance", "odd.txt", "--index", "index", "--model", "demo", "-o", "new/odd.json", folder=folder)
    assert (made.code, made.out.splitlines()[0].split(",")[0]) == (0, "new/odd.json: 6 classes")
    prompts = read_prompts(folder / "new/odd.json")
    assert [group[0].text for group in prompts.texts] == [f"a photo of a {name}." for name in names]
    done = run(
        "classify", "images.parquet", "--prompts", "new/odd.json", "--model", "demo", "-o", "new/odd.parquet",
        "--top-k", "99", folder=folder,
    )  # fmt: skip
    assert done.code == 3
    assert sorted(pl.read_parquet(folder / "new/odd.parquet")["top_k_labels"][0]) == sorted(names)


@pytest.mark.parametrize("keep", ["token", "substring", "phrase"])
def test_the_filter_asked_for_is_the_one_used(folder: Path, keep: str) -> None:
    (folder / "part.txt").write_text("ie\n")
    options = ["--index", "index", "--model", "demo", "--recipe", "repe", "--keep", keep, "--json"]
    facts = json.loads(run("enhance", "part.txt", *options, "-o", "part.json", folder=folder).out)
    assert facts["provenance"]["settings"]["retrieved"]["keep"] == keep
    assert facts["captions"] == (1 if keep == "substring" else 0)
    assert facts["bottleneck"] in facts["seconds"]


def test_an_index_of_another_model_is_refused_with_both_named(folder: Path, tmp_path: Path) -> None:
    model = Path(str(files("rag_clip.demo"))) / "assets" / "model"
    shutil.copytree(model, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "open_clip_model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, tmp_path / "other" / "open_clip_model.safetensors")
    failed = run(
        "enhance", "labels.txt", "--index", "index", "--model", f"local-dir:{tmp_path / 'other'}", "-o", "p.json",
        folder=folder,
    )  # fmt: skip
    assert failed.code == 1
    assert re.search("the index at index was built with demo .* but the encoder is config", failed.errors)


@pytest.mark.skipif(os.name != "posix", reason="closes a pipe early")
def test_a_reader_that_leaves_early_causes_no_trace(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [RAG_CLIP, "index", "info", "index"]
    done = subprocess.run(command, cwd=folder, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("index", "info", "nowhere"), "no index at nowhere"),
        (("index", "build", "none.parquet", "--index", "x", "--model", "demo"), "none.parquet"),
        (("index", "embed", "captions.parquet", "--shards", "x", "--model", "demo", "--part", "3/2"), "3/2"),
        (("index", "check", "nowhere"), "no index at nowhere"),
        (("index", "build", "captions.parquet", "--index", "x", "--model", "demo", "--text-column", "alt"), "alt"),
        (("enhance", "labels.txt", "--model", "demo", "-o", "p.parquet"), "needs an index"),
        (("enhance", "labels.txt", "--index", "index", "--model", "ViT-B-99:x", "-o", "p.parquet"), "ViT-B-99"),
        (("enhance", "labels.txt", "--index", "index", "--model", "demo", "-o", "p.csv"), "p.csv"),
        (("enhance", "none.txt", "--index", "index", "--model", "demo", "-o", "index"), "index is a folder"),
        (("enhance", "labels.txt", "--index", "index", "--model", "demo", "-o", "p.json", "--weight", "2"), "2.0"),
        (("enhance", "labels.txt", "--index", "index", "--model", "demo", "-o", "p.json", "--device", "x"), "'x'"),
        (("index", "info", "labels.txt"), "labels.txt is not an index"),
        (("index", "info", "localhost:6333"), "http://HOST:6333"),
        (("index", "build", "captions.parquet", "--index", "labels.txt", "--model", "demo"), "is a file"),
        (("index", "build", "images.parquet", "--index", "x", "--model", "demo", "--text-column", "number"), "int64"),
        (("classify", "images.parquet", "--prompts", "none.parquet", "--model", "demo", "-o", "o.parquet"), "none"),
    ],
)
def test_what_cannot_go_on_says_why_and_exits_with_1(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    failed = run(*arguments, folder=folder)
    assert failed.code == 1
    assert failed.out == ""
    assert words in failed.errors
    assert "Traceback" not in failed.errors


def test_a_command_that_is_not_understood_exits_with_2(folder: Path) -> None:
    assert run("enhance", "labels.txt", "--model", "demo", folder=folder).code == 2
    assert run("unheard-of", folder=folder).code == 2


def test_the_installed_program_exits_with_the_code_of_its_verb_and_helps(folder: Path) -> None:
    failed = subprocess.run([RAG_CLIP, "index", "info", "nowhere"], cwd=folder, capture_output=True, check=False)
    assert failed.returncode == 1
    text = subprocess.run([RAG_CLIP, "--help"], capture_output=True, text=True, check=True).stdout
    assert [verb for verb in ("classify", "demo", "enhance", "index", "130 interrupted") if verb not in text] == []


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_with_130_and_the_next_run_goes_on(tmp_path: Path) -> None:
    corpus = pl.read_parquet(str(files("rag_clip.demo") / "assets" / "corpus.parquet"))
    corpus.head(5000).write_parquet(tmp_path / "corpus.parquet")
    command = [RAG_CLIP, "index", "build", "corpus.parquet", "--index", "index", "--model", "demo"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "index").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    corpus.head(100).write_parquet(tmp_path / "corpus.parquet")
    finished = run(*command[1:], "--json", folder=tmp_path)
    assert finished.code == 0
    assert json.loads(finished.out)["count"] >= 80
