"""`rag-clip search` as its users meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import Outcome, run
from inputs.photographs import photographs
from rag_clip.demo.concepts import concepts
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running

NAMES = [concept.name for concept in concepts()[:4]]


def search(*arguments: object, folder: Path) -> Outcome:
    return run("search", *arguments, folder=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs of the bundled world indexed with their captions, and the first as a file."""
    folder = tmp_path_factory.mktemp("search")
    images = photographs(len(NAMES))
    captions = [f"a photo of a {name}" for name in NAMES]
    pq.write_table(pa.table({"image": images, "caption": captions}), folder / "pairs.parquet")
    (folder / "first.png").write_bytes(images[0])
    index_images(
        [folder / "pairs.parquet"], index=str(folder / "index"), encoder=load_encoder("demo"), running=Running(0)
    )
    return folder


def test_words_are_found_without_a_model_and_shown_as_a_table(folder: Path) -> None:
    code, out, errors = search("index", "--text", NAMES[1], "--limit", 1, folder=folder)
    lines = out.splitlines()
    assert (code, errors, len(lines)) == (0, "", 3)
    assert lines[0] == repr(NAMES[1])
    assert lines[1].split() == ["rank", "score", "source", "text"]
    assert f"  a photo of a {NAMES[1]}  " in lines[2]
    assert "  width=" in lines[2]


def test_every_text_is_a_search_of_its_own_in_json(folder: Path) -> None:
    _, out, _ = search("index", "--text", NAMES[2], "--text", NAMES[3], "--limit", 1, "--json", folder=folder)
    facts = json.loads(out)
    assert [query["text"] for query in facts["queries"]] == NAMES[2:4]
    assert [[hit["text"] for hit in query["hits"]] for query in facts["queries"]] == [
        [f"a photo of a {name}"] for name in NAMES[2:4]
    ]
    [hit] = facts["queries"][0]["hits"]
    assert {"id", "score", "text", "source", "width", "height", "phash", "sha256", "noise"} <= set(hit)


@pytest.mark.parametrize("text", [(), ("--text", "flag", "--weight", 0.1)])
def test_an_image_finds_itself_alone_and_with_a_light_text(folder: Path, text: tuple[object, ...]) -> None:
    options = ["--image", "first.png", *text, "--over", "image", "--model", "demo", "--limit", 1]
    code, out, _ = search("index", *options, folder=folder)
    assert code == 0
    assert out.startswith("first.png and 'flag'\n" if text else "first.png\n")
    assert f"a photo of a {NAMES[0]}" in out.splitlines()[2]


def test_filters_of_numbers_and_values_narrow_the_search(folder: Path) -> None:
    def count(*where: str) -> int:
        conditions = [part for condition in where for part in ("--where", condition)]
        _, out, _ = search("index", "--text", "photo", "--json", *conditions, folder=folder)
        return len(json.loads(out)["queries"][0]["hits"])

    assert [count(), count("width=1:"), count("width=:1"), count("width=5000"), count("height=1:5000")] == [
        4,
        4,
        0,
        0,
        4,
    ]
    assert [count("source=nowhere"), count("source=nowhere", "source=pairs")] == [0, 4]


def test_nothing_found_is_said(folder: Path) -> None:
    assert search("index", "--text", "zyzzyva", folder=folder) == (0, "'zyzzyva'\n  nothing found\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "the query is empty; give a text, an image, or both"),
        (("--text", "flag", "--where", "width"), "condition 'width' is not FIELD=VALUE, such as source=web"),
        (("--text", "flag", "--where", "width=a:b"), "condition 'width=a:b' is not FIELD=LEAST:GREATEST with numbers"),
        (("--text", "flag", "--where", "width=1:", "--where", "width=:9"), "width has two ranges; give one"),
        (
            ("--text", "flag", "--where", "licence=by"),
            "cannot filter by licence; the indexed fields are height, noise, phash, sha256",
        ),
        (("--image", "nowhere.png"), "No such file or directory: 'nowhere.png'"),
        (("--image", "first.png", "--mode", "lexical"), "lexical search ranks by words, and an image has none"),
    ],
)
def test_what_cannot_be_searched_ends_with_a_line_that_says_why(
    folder: Path, options: tuple[str, ...], message: str
) -> None:
    code, out, errors = search("index", *options, folder=folder)
    assert (code, out) == (1, "")
    assert errors.startswith("rag-clip: ")
    assert message in errors
