import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from rag_clip.data import LabelSet
from rag_clip.files.labels import read_labels, write_labels

FULL = LabelSet(
    names=("cat", "fire truck", "naïve {art} # 1"),
    ids=("n01", "n02", "n03"),
    synonyms=(("feline", "house cat"), (), ("naive",)),
    groups=("animal", "vehicle", ""),
    templates=("a photo of a {}.", "the {}"),
)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_written_label_set_reads_back_equal(tmp_path: Path, suffix: str):
    write_labels(FULL, tmp_path / f"labels{suffix}")
    assert read_labels(tmp_path / f"labels{suffix}") == FULL
    assert [entry.name for entry in tmp_path.iterdir()] == [f"labels{suffix}"]


def test_a_text_file_gives_one_name_per_line(tmp_path: Path):
    content = "\ufeffcat\r\n  fire truck\t\r\n# not a comment\r\nline\u2028separator\r\n\r\n \r\n"
    assert read_labels(write(tmp_path / "labels.txt", content)) == LabelSet(
        ("cat", "fire truck", "# not a comment", "line\u2028separator")
    )


def test_toml_gives_names_with_what_is_known_of_them(tmp_path: Path):
    content = """
        templates = ["a photo of a {}.", "the {}"]
        [[labels]]
        name = "cat"
        id = "n01"
        synonyms = ["feline", "house cat"]
        group = "animal"
        [[labels]]
        name = "fire truck"
    """
    assert read_labels(write(tmp_path / "labels.toml", content)) == LabelSet(
        names=("cat", "fire truck"),
        ids=("n01", "fire truck"),
        synonyms=(("feline", "house cat"), ()),
        groups=("animal", ""),
        templates=("a photo of a {}.", "the {}"),
    )


@pytest.mark.parametrize(
    "document",
    [
        ["cat", "dog"],
        ["cat", {"name": "dog"}],
        {"labels": ["cat", "dog"]},
        {"templates": [], "labels": [{"name": " cat ", "id": None, "group": None}, {"name": "dog", "synonyms": []}]},
    ],
)
def test_json_takes_names_objects_or_a_document(tmp_path: Path, document: object):
    assert read_labels(write(tmp_path / "labels.JSON", json.dumps(document))) == LabelSet(("cat", "dog"))


def test_a_parquet_file_from_polars_needs_only_names(tmp_path: Path):
    pl.DataFrame({"name": ["cat", "dog"], "group": ["pet", None]}).write_parquet(tmp_path / "labels.parquet")
    assert read_labels(tmp_path / "labels.parquet") == LabelSet(("cat", "dog"), groups=("pet", ""))


def test_a_parquet_file_keeps_templates_through_polars(tmp_path: Path):
    write_labels(FULL, tmp_path / "labels.parquet")
    metadata = {"templates": pl.read_parquet_metadata(tmp_path / "labels.parquet")["templates"]}
    pl.read_parquet(tmp_path / "labels.parquet").write_parquet(tmp_path / "labels.parquet", metadata=metadata)
    assert read_labels(tmp_path / "labels.parquet") == FULL


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", "", "the label set is empty"),
        ("l.txt", "\n \n", "the label set is empty"),
        ("l.txt", "cat\n\ndog\n", "label 2 is empty; remove it or name the class"),
        ("l.txt", "cat\ndog\n cat\n", "label 3 repeats label 1, 'cat'; class names must differ"),
        ("l.txt", "cat\n" + "x" * 1001, "label 2 has 1001 characters .* the limit is 1000"),
        ("l.txt", b"caf\xe9\n", "is not UTF-8, byte 3 is 0xe9; save it as UTF-8"),
        ("l.txt", "cat".encode("utf-16"), "is not UTF-8, byte 0 is 0xff"),
        ("l.toml", "labels = [", "is not valid TOML"),
        (
            "l.toml",
            'label = ["cat"]',
            r"the file has an unknown key 'label'; did you mean labels\? known are t",
        ),
        ("l.toml", 'labels = "cat"', "`labels` is of type str; give a list"),
        ("l.toml", "templates = []", "`labels` is missing; give a list"),
        (
            "l.toml",
            '[[labels]]\nname = "a"\nsynonym = ["b"]',
            r"label 1 has an unknown key 'synonym'; did you mean synonyms\? known are name, id",
        ),
        ("l.toml", '[[labels]]\nid = "a"', "label 1 has no `name`; found {'id': 'a'}"),
        ("l.toml", 'templates = ["a photo"]\nlabels = ["a"]', "template 'a photo' has no '{}'"),
        ("l.json", "[1]", "label 1 is of type int; give a name, or an object with a `name`"),
        ("l.json", "3", "contains a value of type int; give a list of names"),
        ("l.json", "[", "is not valid JSON"),
        ("l.json", '["a", {"name": ""}]', "label 2 is empty"),
        ("l.json", '[{"name": 5}]', "label 1 has `name` of type int: 5; give a text"),
        ("l.json", '[{"name": "a", "id": 7.5}]', "label 1 has `id` of type float: 7.5; give a text"),
        (
            "l.json",
            '[{"name": "a", "synonyms": "b"}]',
            "the synonyms of 'a' are of type str: 'b'; give a list of texts",
        ),
        ("l.json", '[{"name": "a", "synonyms": ["b", ""]}]', "the synonyms of 'a' contain ''; give texts that are not"),
        ("l.json", '{"labels": ["a"], "templates": "a {}"}', "the templates are of type str: 'a {}'; give a list"),
        ("l.parquet", b"PAR1 no", "is not a readable Parquet file"),
    ],
)
def test_a_bad_label_file_is_refused_with_its_name_and_entry(
    tmp_path: Path, name: str, content: str | bytes, message: str
):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_labels(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": ["a"]}, "label 1 has an unknown key 'label'"),
        ({"name": ["a", None]}, "label 2 has no `name`"),
        ({"name": [1, 2]}, "label 1 has `name` of type int: 1"),
        ({"name": pl.Series([], dtype=pl.String)}, "the label set is empty"),
    ],
)
def test_a_bad_label_table_is_refused(tmp_path: Path, columns: dict[str, Any], message: str):
    pl.DataFrame(columns).write_parquet(tmp_path / "labels.parquet")
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / "labels.parquet")


def test_unknown_suffixes_and_missing_files_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"label files end in .txt, .toml, .json, .parquet, found suffix '.csv'"):
        read_labels(write(tmp_path / "labels.csv", "cat"))
    with pytest.raises(FileNotFoundError, match=r"there is no label file .*none.txt"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"label sets are written as .json or .parquet, found suffix '.txt'"):
        write_labels(FULL, tmp_path / "labels.txt")


def test_the_parquet_form_is_a_plain_table(tmp_path: Path):
    write_labels(FULL, tmp_path / "labels.parquet")
    assert pq.read_table(tmp_path / "labels.parquet").to_pylist()[0] == {
        "name": "cat",
        "id": "n01",
        "synonyms": ["feline", "house cat"],
        "group": "animal",
    }
