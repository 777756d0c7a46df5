"""`rag-clip support` as its users meet it."""

from __future__ import annotations

import json
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import Outcome, run
from rag_clip.cli import app
from rag_clip.data import LabelSet
from rag_clip.demo.concepts import concepts
from rag_clip.demo.make import photographs
from rag_clip.files.labels import write_labels
from rag_clip.files.learned_prompts import read_learned_prompts
from rag_clip.files.prompts import write_prompts
from rag_clip.files.support import read_support
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running
from rag_clip.prompts.templates import template_prompts

HEAD = [row for row, concept in enumerate(concepts()) if concept.band == "head"][:3]
NAMES = [concepts()[row].name for row in HEAD]


def support(*arguments: object, folder: Path) -> Outcome:
    return run("support", *arguments, folder=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of each of three names, as labelled images and as an index; and labels and prompts."""
    folder = tmp_path_factory.mktemp("support")
    drawn = photographs(11, 2)
    images = [drawn[row + offset] for offset in (0, len(concepts())) for row in HEAD]
    captions = [f"a photo of {name}" for name in NAMES * 2]
    pq.write_table(pa.table({"image": images, "caption": captions, "label": NAMES * 2}), folder / "images.parquet")
    index_images(
        [folder / "images.parquet"],
        index=str(folder / "index"),
        encoder=load_encoder("demo"),
        noise=False,
        running=Running(0),
    )
    labels = LabelSet((*NAMES, "no such thing"))
    write_labels(labels, folder / "labels.json")
    write_prompts(template_prompts(labels), folder / "prompts.parquet")
    return folder


def test_shots_are_drawn_validated_by_others_and_merged(folder: Path) -> None:
    options = ("--labels", "labels.json", "--model", "demo", "-k", 1, "-o", "a.parquet", "--validation", "v.parquet")
    code, out, _ = support("shots", "images.parquet", *options, folder=folder)
    assert (code, out.splitlines()) == (
        0,
        [
            "a.parquet: 3 images of 3 classes",
            "v.parquet: 3 images for validation",
            "  no image: 1 class (no such thing)",
        ],
    )
    _, out, _ = support("shots", "images.parquet", *options, folder=folder)
    assert out.startswith("a.parquet: 3 images of 3 classes, unchanged since an earlier run\n")
    code, out, _ = support("merge", "a.parquet", "a.parquet", "-o", "m.parquet", "--json", folder=folder)
    facts = json.loads(out)
    assert (code, facts["images"], facts["repeated"]) == (0, 3, 3)
    assert read_support(folder / "m.parquet").references == read_support(folder / "a.parquet").references


def test_images_drawn_to_validate_choose_the_settings_of_heads(folder: Path) -> None:
    def go(*arguments: object) -> None:
        with chdir(folder), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            assert app([*map(str, arguments), "--model", "demo"], result_action="return_value") == 0

    files = ("-o", "drawn.parquet", "--validation", "held.parquet", "--with-images")
    go("support", "shots", "images.parquet", "--labels", "labels.json", "-k", 1, *files)
    prompts, judged = ("--prompts", "prompts.parquet"), ("--validation", "held.parquet")
    support_of = (*prompts, "--support", "drawn.parquet", *judged)
    go("classify", "images.parquet", *support_of, "--head", "tip_adapter", "-o", "chosen.parquet")
    como = ("--head", "como", "--second", "demo:second")
    go("classify", "images.parquet", *support_of, *como, "-o", "blended.parquet")
    for path in ("chosen.parquet", "blended.parquet"):
        facts = json.loads(pq.read_schema(folder / path).metadata[b"rag_clip"])
        assert facts["head"]["validation"] == {"path": "held.parquet", "images": 3}
    (folder / "coop.toml").write_text("[context]\nlength = 2\n[schedule]\nepochs = 1\n")
    go("learn", "drawn.parquet", *prompts, *judged, "--options", "coop.toml", "-o", "learned.safetensors")
    learned = read_learned_prompts(folder / "learned.safetensors")
    assert learned.provenance["head"]["validation"] == {"path": "held.parquet", "images": 3}
    go("evaluate", "images.parquet", *support_of, "--labels", "labels.json", "--head", "tip_adapter", "-o", "e.parquet")
    runs = [json.loads(settings) for settings in pq.read_table(folder / "e.parquet")["settings"].unique().to_pylist()]
    assert [run["head"]["validation"] for run in runs if run["head"]] == ["held.parquet"]


def test_images_are_found_and_those_to_classify_kept_out(folder: Path) -> None:
    options = ("--index", "index", "--model", "demo", "--search", "captions", "--limit", 1, "--near-cosine", 1)
    code, out, _ = support("retrieve", "prompts.parquet", *options, "-o", "r.parquet", folder=folder)
    assert code == 0
    assert out.splitlines()[0] == "r.parquet: 3 images of 3 classes, of 6 found"
    assert "  no image: 1 class (no such thing)" in out.splitlines()
    assert read_support(folder / "r.parquet").origin == ("retrieved",) * 3
    table = pq.read_table(folder / "images.parquet").slice(0, 3)
    pq.write_table(table, folder / "test.parquet")
    against = ("--against", "test.parquet", "--judge", "nothing", "-o", "s.parquet", "--json")
    code, out, _ = support("retrieve", "prompts.parquet", *options, *against, folder=folder)
    containment = json.loads(out)["containment"]
    assert (containment["exact"], containment["contained"], containment["rate"]) == (3, 3, 1.0)


def test_what_cannot_be_done_is_said_in_one_line(folder: Path) -> None:
    code, _, errors = support("merge", "absent.parquet", "-o", "m.parquet", folder=folder)
    assert (code, errors) == (
        1,
        "rag-clip: there is no support file absent.parquet; write one with `rag-clip support`\n",
    )
    options = ("--index", "index", "--model", "demo", "-o", "x.parquet", "--limit", 0)
    code, _, errors = support("retrieve", "prompts.parquet", *options, folder=folder)
    assert (code, errors.splitlines()[-1]) == (1, "rag-clip: the limit is 0 images per class; take at least 1")
