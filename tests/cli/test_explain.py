"""`rag-clip explain` as its users meet it, on two classes of the bundled world."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cyclopts import App

from inputs.photographs import photographs
from rag_clip.cli.explain import explain
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.demo.concepts import concepts
from rag_clip.files.prompts import write_prompts

FIRST, SECOND = (concept.name for concept in concepts()[:2])
app = App()
app.default(explain)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    caption = PromptText(f"{FIRST}: a flag seen in town", 0.25, "context", "web", "id-1", 0.9, 0)
    groups = ((PromptText(f"a photo of a {FIRST}", 0.75), caption), (PromptText(f"a photo of a {SECOND}", 1.0),))
    write_prompts(Prompts(LabelSet((FIRST, SECOND)), groups), folder / "prompts.parquet")
    images = photographs(2)
    (folder / "image.png").write_bytes(images[0])
    pq.write_table(pa.table({"image": [*images, None]}), folder / "images.parquet")
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the verb in the folder; return its exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "200")
        code = app([*arguments, "--prompts", "prompts.parquet", "--model", "demo"], result_action="return_value")
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_a_label_is_shown_with_its_texts_evidence_and_nearest_classes(run):
    code, out, _ = run(FIRST.lower())
    assert code == 0
    assert f"{FIRST}: 2 of 2 texts" in out
    assert [line.split()[-2:] for line in out.splitlines() if "seen in town" in line] == [["web", "id-1"]]
    assert [line.split()[0] for line in out.splitlines() if line.startswith(SECOND)] == [SECOND]
    assert "expected confusion: before " in out


def test_json_of_an_image_has_contributions_that_add_up(run):
    code, out, _ = run("--images", "images.parquet", "--row", "0", "--json")
    facts = json.loads(out)
    image = facts["image"]
    assert (code, facts["label"], facts["html"]) == (0, None, None)
    assert {image["winner"]["label"], image["rival"]["label"]} == {FIRST, SECOND}
    sums = [sum(text["contribution"] for text in image[side]["texts"]) for side in ("winner", "rival")]
    assert sums[0] - sums[1] == pytest.approx(image["gap"], abs=1e-6)
    assert image["gap"] > 0


def test_an_image_file_and_its_row_of_parquet_are_explained_alike(run):
    from_file, from_row = (
        json.loads(run(*source, "--json")[1])["image"]
        for source in (("--image", "image.png"), ("--images", "images.parquet", "--row", "0"))
    )
    assert from_file == from_row


def test_images_are_taken_as_classify_takes_them(run, folder: Path):
    (folder / "photos").mkdir()
    for name in ("a", "b"):
        (folder / "photos" / f"{name}.png").write_bytes((folder / "image.png").read_bytes())
    (folder / "parts").mkdir()
    table = pq.read_table(folder / "images.parquet")
    for name, part in (("1", table.slice(1)), ("2", table.slice(0, 1))):
        pq.write_table(part, folder / "parts" / f"{name}.parquet")
    (folder / "list.csv").write_text("path\nimage.png\n")
    sources = ["image.png", "photos --row 1", "parts --row 2", "list.csv", "list.csv --row 0"]
    found = [json.loads(run("--images", *source.split(), "--json")[1])["image"] for source in sources]
    assert found == [json.loads(run("--image", "image.png", "--json")[1])["image"]] * len(sources)


def test_an_image_and_a_label_are_written_to_one_page(run, folder: Path):
    code, out, _ = run(SECOND, "--image", "image.png", "--count", "1", "--html", "page.html")
    assert code == 0
    assert "= gap " in out
    assert out.endswith("page: page.html\n")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2  # the image, and where in it the class is
    assert f"What <bdi>{SECOND}</bdi> is made of" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to explain"),
        (("Nowhere-Land",), "no class is called 'Nowhere-Land' among 2"),
        (("--image", "none.png"), "none.png"),
        (("--image", "prompts.parquet"), "not an image of a known format"),
        (("--images", "images.parquet"), "images.parquet holds 3 images; choose one with --row N, from 0"),
        (("--row", "0", FIRST), "--row is of --images; give both"),
        (("--image", "image.png", "--images", "images.parquet", "--row", "0"), "explain one image"),
        (("--images", "images.parquet", "--row", "3"), "images.parquet has no row 3; it holds 3 rows, counted from 0"),
        (("--images", "images.parquet", "--row", "-1"), "has no row -1"),
        (("--images", "images.parquet", "--row", "2"), "has no image"),
        ((FIRST, "--count", "0"), "--count is 0; give at least 1"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_a_reason(run, arguments: tuple[str, ...], message: str):
    code, out, errors = run(*arguments)
    assert (code, out) == (1, "")
    assert message in errors
