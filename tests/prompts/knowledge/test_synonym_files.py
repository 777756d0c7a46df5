from __future__ import annotations

from pathlib import Path

import pytest

from inputs.folders import SHARED
from rag_clip.prompts.knowledge.synonym_files import read_frequencies, read_synonyms

REAL_FILES = SHARED / "data/knowledge"


def read(tmp_path: Path, content: str):
    path = tmp_path / "synonyms.json"
    path.write_text(content, encoding="utf-8")
    return read_synonyms(path)


def test_the_format_of_real_and_plain_lists_read_alike(tmp_path):
    expected = {"lynx": ("bobcat", "Lynx rufus"), "dormouse": ()}
    real = """{"0": {"name": "lynx", "alternates": {"bobcat": 7, "lynx": 3, "Lynx rufus": 0}, "actual_freq": 10},
               "1": {"name": "dormouse", "alternates": {"dormouse": 2}, "most_common_name": "dormouse"}}"""
    assert read(tmp_path, real) == expected
    assert read(tmp_path, '{"lynx": [" bobcat ", "Lynx rufus", "bobcat"], "dormouse": []}') == expected


def test_frequencies_are_those_of_the_file_and_of_whole_numbers_alone(tmp_path):
    content = """{"0": {"name": "lynx", "alternates": {" bobcat ": 7, "lynx": 3, "Lynx rufus": 0}},
                  "1": {"name": "dormouse", "alternates": ["mouse"]},
                  "2": {"name": "owl", "alternates": {"bird": "many"}}, "hen": ["chicken"]}"""
    (tmp_path / "real.json").write_text(content)
    assert read_frequencies(tmp_path / "real.json") == {"lynx": {"bobcat": 7, "lynx": 3, "Lynx rufus": 0}}
    assert set(read_synonyms(tmp_path / "real.json")) == {"lynx", "dormouse", "owl", "hen"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "holds nothing; give an object of names"),
        ('["lynx"]', r"holds a list, \"\['lynx'\]\"; give an object of names"),
        ("{", "is not valid JSON"),
        ('{"lynx": ["a"], "lynx": ["b"]}', "the name 'lynx' comes twice; merge its entries"),
        (
            '{"0": {"name": "lynx", "alternates": {}}, "1": {"name": "lynx", "alternates": {}}}',
            "the name 'lynx' comes twice, the second time at '1'",
        ),
        ('{"0": {"name": "lynx", "descriptions": []}}', "entry '0' has the keys 'name', 'descriptions'; REAL's format"),
        ('{"lynx": "bobcat"}', "entry 'lynx' holds a str, 'bobcat'; give a list of synonyms"),
        ('{"lynx": ["bobcat", 3]}', "entry 'lynx' holds the name 3; give texts that are not empty"),
        ('{"lynx": ["  "]}', "entry 'lynx' holds the name '  '"),
        ('{"0": {"name": " ", "alternates": {}}}', "entry '0' holds the name ''"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_entry(tmp_path, content, reason):
    with pytest.raises(ValueError, match=rf"synonyms\.json: {reason}"):
        read(tmp_path, content)


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{"caf\xe9": []}')
    with pytest.raises(ValueError, match=r"latin\.json: is not UTF-8, byte 5 is 0xe9; save it as UTF-8"):
        read_synonyms(tmp_path / "latin.json")
    with pytest.raises(FileNotFoundError, match=r"there is no synonym file .*absent\.json; give a JSON file"):
        read_synonyms(tmp_path / "absent.json")


@pytest.mark.skipif(not REAL_FILES.is_dir(), reason="needs ../shared")
def test_the_published_files_of_real_are_read():
    eurosat = read_synonyms(REAL_FILES / "real_eurosat_laion400m.json")
    flowers = read_synonyms(REAL_FILES / "real_flowers102_laion400m.json")
    assert (len(eurosat), len(flowers)) == (10, 102)
    assert eurosat["annual crop land"] == ("annual grain field", "annual crop field")
    assert flowers["pink primrose"] == ("Primula vulgaris",)
