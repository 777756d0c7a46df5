"""Label sets as others write them."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_clip.data import LabelSet
from rag_clip.files.labels import read_labels
from rag_clip.files.prompts import read_prompts, write_prompts
from rag_clip.images.labelled import class_numbers
from rag_clip.prompts.mentions import Mentions
from rag_clip.prompts.retrieved import contains_phrase, without_name
from rag_clip.prompts.templates import template_prompts

PETS = LabelSet(("cat", "dog", "owl"), ids=("0", "1", "2"))
SYNSETS = LabelSet(
    ("tench", "goldfish"), ids=("n01440764", "n01443537"), synonyms=(("Tinca tinca",), ("Carassius auratus",))
)
BARE = LabelSet(SYNSETS.names, ids=SYNSETS.ids)


def read(folder: Path, name: str, content: object) -> LabelSet:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_labels(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("0,cat\n1,dog\n2,owl\n", PETS),
        ("2,owl\n0,cat\n1,dog\n", PETS),
        ("id,name\n0,cat\n1,dog\n2,owl\n", PETS),
        ("0,\"cat\"\n1,'dog'\n2,owl\n", PETS),
        ("0: cat\n1: dog\n2: owl", PETS),
        ("0\tcat\n1\tdog\n2\towl\n", PETS),
        ("0 cat\n1 dog\n2 owl\n", PETS),
        ("cat 0\ndog 1\nowl 2\n", PETS),
        ("1;cat\n2;dog\n3;owl\n", LabelSet(PETS.names, ids=("1", "2", "3"))),
        ("n01440764 tench\nn01443537 goldfish\n", BARE),
        ("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n", SYNSETS),
        ("{0: 'cat',\n 1: 'dog',\n 2: 'owl'}\n", PETS),
        ('["cat", "dog"]', LabelSet(("cat", "dog"))),
        # These are names, though they hold numbers.
        ("1 Series\n2 Series\n3 Series\n", LabelSet(("1 Series", "2 Series", "3 Series"))),
        ("5,cat\n7,dog\n", LabelSet(("5,cat", "7,dog"))),
        ("0,cat\n0,dog\n", LabelSet(("0,cat", "0,dog"))),
        ("747\n737\n", LabelSet(("747", "737"))),
        ("Audi 100\nAudi 80\n", LabelSet(("Audi 100", "Audi 80"))),
        ("[x] ray\n[y] ray\n", LabelSet(("[x] ray", "[y] ray"))),
    ],
)
def test_lines_are_names_unless_all_of_them_are_numbered(tmp_path: Path, content: str, expected: LabelSet) -> None:
    assert read(tmp_path, "labels.txt", content) == expected


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}, BARE),
        ({"10": "owl", "0": "cat", "9": "dog"}, LabelSet(("cat", "dog", "owl"), ids=("0", "9", "10"))),
        ({"architectures": ["ViT"], "id2label": {"0": "cat", "1": "dog", "2": "owl"}, "label2id": {"cat": 0}}, PETS),
        ({"owl": 2, "cat": 0, "dog": 1}, PETS),
        ({"n01440764": "tench", "n01443537": "goldfish"}, BARE),
        ({"n01440764": ["tench", "Tinca tinca"], "n01443537": ["goldfish", "Carassius auratus"]}, SYNSETS),
        ({"0": ["cat", "feline"], "1": ["dog"]}, LabelSet(("cat", "dog"), ids=("0", "1"), synonyms=(("feline",), ()))),
        ([["n01440764", "tench"], ["n01443537", "goldfish"]], BARE),
        (
            {
                "images": [],
                "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "cup"}],
            },
            LabelSet(("cat", "cup"), ids=("1", "3"), groups=("animal", "")),
        ),
    ],
)
def test_json_of_others_is_read(tmp_path: Path, document: object, expected: LabelSet) -> None:
    assert read(tmp_path, "labels.json", document) == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": "cat"}, "the file has an unknown key 'a'"),
        ({"0": {"x": 1}}, "the file has an unknown key '0'"),
        ({"0": [], "1": []}, "the file has an unknown key '0'"),
        ({"cat": 0, "dog": 0}, "the file has an unknown key 'cat'"),
        ({}, "`labels` is missing"),
        ([["n1", 3], ["n2", 4]], "label 1 has `name` of type int: 3; give a text"),
    ],
)
def test_what_is_in_no_format_is_refused(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, "labels.json", document)


def test_a_column_of_a_parquet_file_gives_its_distinct_names(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"breed": ["pug", "tabby", None, "pug"], "of": [["dog"], ["cat", "pet"], [], ["dog"]], "n": [1] * 4}),
        tmp_path / "images.parquet",
    )
    assert read_labels(f"{tmp_path}/images.parquet:breed") == LabelSet(("pug", "tabby"))
    assert read_labels(f"{tmp_path}/images.parquet:of") == LabelSet(("dog", "cat", "pet"))
    with pytest.raises(ValueError, match="has no column 'absent'; it has breed, of, n"):
        read_labels(f"{tmp_path}/images.parquet:absent")
    with pytest.raises(ValueError, match="label 1 is of type int"):
        read_labels(f"{tmp_path}/images.parquet:n")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.parquet; give FILE\.parquet:COLUMN"):
        read_labels(tmp_path / "none.parquet:breed")


def test_names_that_differ_by_id_alone_are_told_apart_but_said_alike(tmp_path: Path) -> None:
    labels = read(
        tmp_path, "l.json", {"0": ["n02012849", "crane"], "1": ["n02007558", "ibis"], "2": ["n03126707", "crane"]}
    )
    first, second = "crane (id n02012849)", "crane (id n03126707)"
    assert labels == LabelSet((first, "ibis", second), ids=("n02012849", "n02007558", "n03126707"))
    prompts = template_prompts(labels)
    assert [group[0].text for group in prompts.texts] == [
        "a photo of a crane.",
        "a photo of a ibis.",
        "a photo of a crane.",
    ]
    assert contains_phrase(first)("a Crane in the sky")
    assert without_name(first)("a tall crane in the sky") == "a tall in the sky"
    assert Mentions(labels).names("a crane") == {first, second}
    assert class_numbers(["n03126707", second, "ibis"], labels) == [2, 2, 1]
    with pytest.raises(ValueError, match=r"'crane' is a spelling of both 'crane \(id n02012849\)' and"):
        class_numbers(["crane"], labels)
    for suffix in ("parquet", "json"):
        write_prompts(prompts, tmp_path / f"p.{suffix}")
        assert read_prompts(tmp_path / f"p.{suffix}") == prompts
    with pytest.raises(ValueError, match="label 2 repeats label 1, 'crane'; class names must differ, or have ids"):
        LabelSet(("crane", "crane"))


def test_names_are_kept_in_one_form_of_unicode(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "café")
    labels = read(tmp_path, "labels.txt", f"{decomposed}\nbar\n")
    assert labels.names == ("café", "bar")
    assert class_numbers([decomposed, "CAFE"], labels) == [0, 0]
    with pytest.raises(ValueError, match="label 2 repeats label 1"):
        LabelSet((decomposed, "café"))
    table = pa.table({"label": [decomposed], "text": ["x"], "weight": [1.0]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet").labels.names == ("café",)
