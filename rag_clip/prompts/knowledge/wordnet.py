"""The noun senses of a name, from a local WordNet; nothing is downloaded.

Two sources: the files of Princeton's WordNet 3.x (wndb(5WN); Debian's package `wordnet-base`), parsed here, or a
lexicon installed in the `wn` package (extra `wordnet`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_clip.files.regular import is_regular

FOLDER = Path("/usr/share/wordnet")
LEXICON_PREFIX = "wn:"
# Plural endings and their replacements, in the order of WordNet's own search (morphy(7WN)).
_ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)


@dataclass(frozen=True, slots=True)
class Sense:
    """One meaning of a name: its synonyms and its definition."""

    synonyms: tuple[str, ...]
    gloss: str


@dataclass(frozen=True, slots=True)
class WordNet:
    """Senses by name. `source` is where they are read from; `lookup` returns the senses of a spelling, or ()."""

    source: str
    lookup: Callable[[str], tuple[Sense, ...]]

    def senses(self, name: str) -> tuple[Sense, ...]:
        """Return the noun senses of a name, in WordNet's order; () for an unknown name.

        Case is ignored; underscores, hyphens and spaces are interchangeable; a plural is found by its singular, which
        is then among the synonyms.
        """
        spaced = " ".join(name.casefold().replace("_", " ").split())
        for spelling in _spellings(spaced):
            if senses := self.lookup(spelling):
                return tuple(
                    Sense(tuple(word for word in sense.synonyms if word.casefold() != spaced), sense.gloss)
                    for sense in senses
                )
        return ()


def read_wordnet(source: str | Path | None = None) -> WordNet:
    """Open WordNet: a folder with index.noun and data.noun (by default Debian's), or "wn:LEXICON" of the `wn` package.

    Raises FileNotFoundError, saying how to install it, where there is no WordNet; ValueError for files of another
    format and for a lexicon that is not installed; ImportError without the `wn` package.
    """
    if source is not None and str(source).startswith(LEXICON_PREFIX):
        return _read_lexicon(str(source).removeprefix(LEXICON_PREFIX))
    folder = Path(source or FOLDER)
    missing = [name for name in ("index.noun", "data.noun") if not is_regular(folder / name)]
    if missing:
        raise FileNotFoundError(
            f"there is no {' and no '.join(missing)} in {folder}; install WordNet (Debian: apt install wordnet-base), "
            f"or give its folder, or wn:LEXICON for a lexicon of the `wn` package"
        )
    return _read_folder(folder)


def _spellings(spaced: str) -> tuple[str, ...]:
    """Return the spellings to look up: the name, then with and without hyphens, then the singulars of all."""
    plain = (spaced, spaced.replace("-", " "), spaced.replace(" ", "-"), spaced.replace("-", ""))
    singular = (
        spelling.removesuffix(ending) + replacement
        for spelling in plain
        for ending, replacement in _ENDINGS
        if spelling.endswith(ending) and not spelling.endswith("ss") and len(spelling) > len(ending) + 1
    )
    return tuple(dict.fromkeys((*plain, *singular)))


def _read_folder(folder: Path) -> WordNet:
    data = (folder / "data.noun").read_bytes()
    offsets = dict(_indexed(folder / "index.noun"))
    exceptions = dict(_excepted(folder / "noun.exc"))

    def lookup(spelling: str) -> tuple[Sense, ...]:
        lemma = spelling.replace(" ", "_")
        found = offsets.get(lemma) or offsets.get(exceptions.get(lemma, ""), ())
        return tuple(_sense(data, offset, folder) for offset in found)

    return WordNet(str(folder), lookup)


def _indexed(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Read `lemma pos senses pointers [pointer ...] senses tagged offset ...`; the licence starts with two spaces."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("  "):
            continue
        fields = line.split()
        try:
            yield fields[0], tuple(int(field) for field in fields[len(fields) - int(fields[2]) :])
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{path}: line {number} is {line[:60]!r}, not of WordNet's index; give the folder of WordNet 3.x"
            ) from error


def _excepted(path: Path) -> Iterator[tuple[str, str]]:
    """Read `plural singular [singular ...]`; the file may be absent."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        plural, singular, *_ = [*line.split(), "", ""]
        yield plural, singular


def _sense(data: bytes, offset: int, folder: Path) -> Sense:
    """Read `offset file type words word id [word id ...] pointers ... | gloss`, the number of words hexadecimal."""
    fields, _, gloss = data[offset : data.find(b"\n", offset)].decode("utf-8", "replace").partition(" | ")
    columns = fields.split()
    if not columns or columns[0] != f"{offset:08d}":
        raise ValueError(
            f"{folder}: data.noun has no synset at byte {offset}, where index.noun says there is one; take both files "
            f"from one version of WordNet"
        )
    words = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
    return Sense(tuple(word.replace("_", " ") for word in words), gloss.strip())


def _read_lexicon(lexicon: str) -> WordNet:
    try:
        import wn
    except ImportError as error:
        raise ImportError(
            "lexicons are read with the `wn` package; install rag-clip[wordnet], or give a folder of WordNet files"
        ) from error
    try:
        wordnet: Any = wn.Wordnet(lexicon, expand="")
    except wn.Error as error:
        installed = ", ".join(f"wn:{each.specifier()}" for each in wn.lexicons()) or "none"
        raise ValueError(
            f"the lexicon {lexicon!r} is not installed in the `wn` package; installed are: {installed}"
        ) from error

    def lookup(spelling: str) -> tuple[Sense, ...]:
        synsets = wordnet.synsets(spelling, pos="n")
        return tuple(Sense(tuple(map(str, synset.lemmas())), synset.definition() or "") for synset in synsets)

    return WordNet(f"{LEXICON_PREFIX}{lexicon}", lookup)
