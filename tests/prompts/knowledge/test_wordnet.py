from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from rag_clip.prompts.knowledge.wordnet import FOLDER, Sense, read_wordnet

SYNSETS = (
    (("crane", "derrick"), "a machine that hoists loads"),
    (("crane",), "a tall bird of wetlands"),
    (("sea-pink", "thrift"), "a flower of the coast"),
    (("goose",), "a bird that honks"),
    (("church",), "a building for worship"),
    (("Lynx_rufus", "bobcat"), "a wild cat"),
)


def write_wordnet(folder: Path, synsets: Sequence[tuple[Sequence[str], str]] = SYNSETS) -> Path:
    """Write synsets of (words, gloss) as index.noun, data.noun and noun.exc."""
    folder.mkdir(exist_ok=True)
    data, offsets = "  1 licence  \n", dict[str, list[int]]()
    for words, gloss in synsets:
        for word in words:
            offsets.setdefault(word.lower(), []).append(len(data))
        listed = " ".join(f"{word} 0" for word in words)
        data += f"{len(data):08d} 05 n {len(words):02x} {listed} 001 @ 00000001 n 0000 | {gloss}  \n"
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text("  1 licence  \n" + "".join(map(index_line, sorted(offsets.items()))))
    (folder / "noun.exc").write_text("geese goose\n")
    return folder


def index_line(entry: tuple[str, Sequence[int]]) -> str:
    lemma, places = entry
    return f"{lemma} n {len(places)} 1 @ {len(places)} 0 {' '.join(f'{place:08d}' for place in places)}  \n"


def test_every_noun_sense_of_an_ambiguous_name_is_reported(tmp_path):
    assert read_wordnet(write_wordnet(tmp_path)).senses("crane") == (
        Sense(("derrick",), "a machine that hoists loads"),
        Sense((), "a tall bird of wetlands"),
    )


@pytest.mark.parametrize(
    ("name", "synonyms"),
    [
        ("Bobcat", ("Lynx rufus",)),
        ("LYNX_RUFUS", ("bobcat",)),
        ("sea pink", ("sea-pink", "thrift")),
        ("Sea-Pinks", ("sea-pink", "thrift")),
        ("churches", ("church",)),
        ("geese", ("goose",)),
        ("goose", ()),
    ],
)
def test_names_are_found_without_case_with_hyphens_or_spaces_and_by_their_singular(tmp_path, name, synonyms):
    assert [sense.synonyms for sense in read_wordnet(write_wordnet(tmp_path)).senses(name)] == [synonyms]


@pytest.mark.parametrize("name", ["okapi", "", " ", "s", "чайка", "🦊", "crane " * 500])
def test_a_name_that_wordnet_does_not_know_has_no_senses(tmp_path, name):
    assert read_wordnet(write_wordnet(tmp_path)).senses(name) == ()


def test_a_folder_without_wordnet_says_how_to_get_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no index\.noun and no data\.noun in .*apt install wordnet-base"):
        read_wordnet(tmp_path)


def test_files_that_are_not_wordnets_are_refused(tmp_path):
    folder = write_wordnet(tmp_path)
    (folder / "index.noun").write_text("name,synonym\n")
    with pytest.raises(ValueError, match=r"index\.noun: line 1 is 'name,synonym', not of WordNet's index"):
        read_wordnet(folder)


def test_an_index_of_another_version_is_refused(tmp_path):
    folder = write_wordnet(tmp_path)
    (folder / "data.noun").write_text("  longer licence\n" + (folder / "data.noun").read_text())
    with pytest.raises(ValueError, match=r"data\.noun has no synset at byte \d+.*from one version of WordNet"):
        read_wordnet(folder).senses("goose")


@pytest.mark.skipif(not (FOLDER / "data.noun").is_file(), reason="needs Debian's wordnet-base")
def test_debians_wordnet_is_read():
    wordnet = read_wordnet()
    assert wordnet.source == str(FOLDER)
    assert len(wordnet.senses("crane")) == 5
    assert ("woodland", "timberland", "timber") in [sense.synonyms for sense in wordnet.senses("forest")]
    assert [sense.synonyms for sense in wordnet.senses("Highways")] == [("highway", "main road")]


def run_with_lexicon(folder: Path, code: str) -> str:
    """Run code in a process of its own, whose `wn` package keeps its lexicons in `folder`; return what it prints."""
    (folder / "lexicon.xml").write_text(lexicon_xml({"crane": ["hoist", "bird"], "derrick": ["hoist"]}))
    prepare = f"import wn; wn.config.data_directory = {str(folder / 'wn')!r}; wn.add({str(folder / 'lexicon.xml')!r}, "
    source = f"{prepare}progress_handler=None)\nfrom rag_clip.prompts.knowledge.wordnet import read_wordnet\n{code}"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def lexicon_xml(senses: Mapping[str, Sequence[str]]) -> str:
    entries = "".join(
        f'<LexicalEntry id="toy-{word}"><Lemma writtenForm="{word}" partOfSpeech="n"/>'
        + "".join(f'<Sense id="toy-{word}-{synset}" synset="toy-{synset}"/>' for synset in synsets)
        + "</LexicalEntry>"
        for word, synsets in senses.items()
    )
    synsets = "".join(
        f'<Synset id="toy-{name}" ili="" partOfSpeech="n"><Definition>the {name}</Definition></Synset>'
        for name in ("hoist", "bird")
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE LexicalResource SYSTEM '
        '"http://globalwordnet.github.io/schemas/WN-LMF-1.0.dtd">\n<LexicalResource '
        'xmlns:dc="https://globalwordnet.github.io/schemas/dc/"><Lexicon id="toy" label="Toy" language="en" '
        f'email="a@b.c" license="none" version="1">{entries}{synsets}</Lexicon></LexicalResource>'
    )


@pytest.mark.skipif(find_spec("wn") is None, reason="needs the extra wordnet")
def test_an_installed_lexicon_is_read_and_an_absent_one_is_not_downloaded(tmp_path):
    code = """
print([(sense.synonyms, sense.gloss) for sense in read_wordnet("wn:toy:1").senses("Cranes")])
try:
    read_wordnet("wn:absent:2")
except ValueError as error:
    print(error)
"""
    assert run_with_lexicon(tmp_path, code).splitlines() == [
        "[(('crane', 'derrick'), 'the hoist'), (('crane',), 'the bird')]",
        "the lexicon 'absent:2' is not installed in the `wn` package; installed are: wn:toy:1",
    ]


def test_a_lexicon_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wn", None)  # as where the extra is not installed
    with pytest.raises(ImportError, match=r"install rag-clip\[wordnet\], or give a folder of WordNet files"):
        read_wordnet("wn:oewn:2024")
