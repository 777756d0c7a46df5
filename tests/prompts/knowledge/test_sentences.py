import json
from pathlib import Path
from typing import Any

import pytest

from inputs.folders import SHARED
from rag_clip.prompts.knowledge.sentences import Definition, Kind, Sentences, read_sentences

REAL = SHARED / "data/knowledge"
DEFINITIONS = [
    {
        "classname": "river",
        "def_wiki": "A large  stream.",
        "def_wn": "a natural stream",
        "path_wn": ["river", "stream", "body_of_water", "thing", "entity"],
    },
    {"classname": "annual crop land", "def_wiki": None, "def_wn": "", "path_wn": ""},
]


def write(folder: Path, document: object, name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document, ensure_ascii=False), "utf-8")
    return path


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"river": ["A river is wet.", "A river flows\n  on!"], "sea": []}, "cupl"),
        ({"河流": ["河流是水流。"]}, "cupl"),
        ({"river": ["sandy banks", "may be winding"], "sea": ["waves"]}, "dclip"),
        ({"river": [f"concept {number}" for number in range(60)], "sea": ["wide."] * 40}, "labo"),
        ([{"classname": "river", "gpt3": [" a stream", ""]}, {"classname": "sea", "gpt3": ""}], "elevater gpt3"),
    ],
)
def test_the_kind_of_a_file_shows_in_its_content(tmp_path: Path, document: Any, kind: Kind):
    entries = document if isinstance(document, dict) else {entry["classname"]: entry["gpt3"] for entry in document}
    texts = {name: tuple(" ".join(text.split()) for text in texts if text) for name, texts in entries.items()}
    assert read_sentences(write(tmp_path, document)) == Sentences(kind, texts, f"{kind}:file.json")


@pytest.mark.parametrize(
    ("definition", "river"),
    [
        ("def_wiki", "A large stream."),
        ("def_wn", "a natural stream"),
        ("path_wn", "river stream body of water"),
    ],
)
def test_one_definition_is_read_and_empty_ones_are_none(tmp_path: Path, definition: Definition, river: str):
    path = write(tmp_path, DEFINITIONS, "definitions.tsv")
    assert read_sentences(path, definition=definition) == Sentences(
        "elevater definitions", {"river": (river,), "annual crop land": ()}, "elevater definitions:definitions.tsv"
    )


def test_the_kind_given_comes_before_the_content(tmp_path: Path):
    path = write(tmp_path, {"river": ["sandy banks"]})
    assert read_sentences(path, kind="labo") == Sentences("labo", {"river": ("sandy banks",)}, "labo:file.json")
    with pytest.raises(ValueError, match=r"file.json: is no file of kind 'elevater gpt3'; it looks like 'dclip'"):
        read_sentences(path, kind="elevater gpt3")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("classname\tgpt3\nriver\ta stream", "file.json: is not valid JSON"),
        ("{}", "holds '{}'; give an object"),
        ("3", "holds '3'; give an object"),
        ({"river": []}, "holds no texts; give each class at least one"),
        ({"river": "A stream."}, "class 'river' holds 'A stream.'; give a list of texts"),
        ({"river": ["A stream.", 3]}, "class 'river' holds '3' among its texts; give texts alone"),
        ('{"river": ["a"], "river": ["b"]}', "'river' stands twice in one object; join the two entries"),
        (
            {"0": {"name": "river", "alternates": {"brook": 5}}},
            "class '0' has `alternates`: these are synonyms in REAL's",
        ),
        (["river"], "entry 1 has no `classname` or no `def_wiki`; found river"),
        ([{"classname": "river", "gpt3": ["a"]}, {"classname": "sea"}], "entry 2 has no `classname` or no `gpt3`"),
        ([{"classname": "sea", "gpt3": ["a"]}] * 2, "entry 2 repeats the class 'sea'; join the two entries"),
    ],
)
def test_files_in_no_known_format_are_refused(tmp_path: Path, document: object, message: str):
    with pytest.raises(ValueError, match=message):
        read_sentences(write(tmp_path, document))


def test_unknown_kinds_definitions_encodings_and_files_are_refused(tmp_path: Path):
    path = write(tmp_path, DEFINITIONS)
    with pytest.raises(ValueError, match="unknown kind 'gpt4' of knowledge file; known are cupl, dclip, labo"):
        read_sentences(path, kind="gpt4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown definition 'def'; known are def_wiki, def_wn, path_wn"):
        read_sentences(path, definition="def")  # type: ignore[arg-type]
    path.write_bytes(b'{"caf\xe9": []}')
    with pytest.raises(ValueError, match=r"file.json: is not UTF-8, byte 5 is 0xe9"):
        read_sentences(path)
    with pytest.raises(FileNotFoundError, match=r"there is no knowledge file .*other.json"):
        read_sentences(tmp_path / "other.json")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared")
def test_published_files_are_recognised():
    names = ["CuPL_prompts_eurosat.json", "cupl_caltech101.json", "dclip_eurosat.json"]
    names += ["elevater_eurosat_definitions.tsv", "elevater_caltech101_definitions.tsv", "elevater_eurosat_gpt3.tsv"]
    found = [read_sentences(REAL / name) for name in names]
    assert [(each.kind, len(each.by_name), sum(map(len, each.by_name.values()))) for each in found] == [
        ("cupl", 10, 198),
        ("cupl", 102, 3060),
        ("dclip", 10, 25),
        ("elevater definitions", 10, 10),
        ("elevater definitions", 102, 102),
        ("elevater gpt3", 10, 50),
    ]
    assert sum(map(len, read_sentences(REAL / names[4], definition="path_wn").by_name.values())) == 81
