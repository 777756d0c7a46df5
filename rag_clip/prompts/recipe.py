"""Recipes: the sources of a class's texts and their weights, in TOML; the bundled ones are in index/recipes.toml.

    [templates]   set = "general"               anchors; by default the label set's, else "a photo of a {}."
    [synonyms]    use = "frequent"              names in the templates: the most frequent in the corpus
    [retrieved]   weight = 0.25                 captions of the index: the fields of Retrieval
    [described]   files = ["cupl.json"]         sentences of knowledge files, with their weight

The templates have the weight that remains after retrieved and described.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rag_clip.files.reading import read_toml
from rag_clip.files.regular import is_regular
from rag_clip.files.settings import check_settings, refuse_unknown
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.prompts.templates import template_set


@dataclass(frozen=True, slots=True)
class Templates:
    """Templates: a named `set`, or `texts` of your own; with neither, those of the label set."""

    set: str = ""
    texts: tuple[str, ...] = ()

    def choose(self) -> tuple[str, ...] | None:
        """Return the templates, or None for those of the label set; raises ValueError for an unknown set."""
        return self.texts or (template_set(self.set) if self.set else None)


@dataclass(frozen=True, slots=True)
class Synonyms:
    """Synonyms from the label file, from knowledge `files` and from `wordnet`.

    use: "frequent" uses the most frequent name; "ensemble" uses all names, weighted by their counts.
    files: synonym files.
    wordnet: "installed" (the files of Debian's package), a folder of such files, or "wn:LEXICON" of the wn package.
    """

    use: Literal["frequent", "ensemble"] = "frequent"
    files: tuple[Path, ...] = ()
    wordnet: str = ""


@dataclass(frozen=True, slots=True)
class Described:
    """Sentences of knowledge files, with the total weight `weight` in each class that they describe.

    `average` is taken over the `vectors` of a class's texts, or over the `cosines` of images with them, as published
    for DCLIP with a weight of 1 (see classifiers.zero_shot).
    """

    files: tuple[Path, ...]
    weight: float = 0.5
    average: Literal["vectors", "cosines"] = "vectors"

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"the weight of the descriptions is {self.weight}; give a number above 0, up to 1")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The sources of a class's texts; None leaves a source out. Raises ValueError where the weights sum to over one."""

    name: str = "templates"
    templates: Templates = Templates()
    synonyms: Synonyms | None = None
    retrieved: Retrieval | None = None
    described: Described | None = None

    def __post_init__(self) -> None:
        taken = sum(source.weight for source in (self.retrieved, self.described) if source)
        if taken > 1:
            raise ValueError(
                f"recipe {self.name!r} mixes in texts of weight {taken:g} together; they may weigh at most 1"
            )

    @property
    def needs_index(self) -> bool:
        """Whether the recipe uses captions: to retrieve them, or to count names in them."""
        return self.retrieved is not None or self.synonyms is not None

    @property
    def files(self) -> tuple[Path, ...]:
        """The knowledge files that the recipe reads."""
        return tuple(path for source in (self.synonyms, self.described) if source for path in source.files)

    def document(self) -> dict[str, Any]:
        """Return the recipe as plain values, for provenance."""
        return {key: _plain(value) for key, value in asdict(self).items() if value is not None}


SOURCES: Mapping[str, type] = {
    "templates": Templates,
    "synonyms": Synonyms,
    "retrieved": Retrieval,
    "described": Described,
}


def load_recipe(spec: str | Path = "default") -> Recipe:
    """Read a recipe: a name in index/recipes.toml, FILE.toml, or FILE.toml:NAME for a file of several recipes.

    Paths in a file are relative to it. Raises ValueError, naming file and table, for invalid TOML, unknown names,
    tables and settings, wrong values, and missing files.
    """
    path, name = _locate(str(spec))
    document = read_toml(path)
    if name:
        if not isinstance(document.get(name), dict):
            raise ValueError(f"{path} has no recipe {name!r}; it has {', '.join(document)}")
        document = document[name]
    try:
        refuse_unknown(document, SOURCES, what="source")
        sources = {key: _read_table(SOURCES[key], table, path, key) for key, table in document.items()}
        return Recipe(name or path.stem, **sources)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with RAG-CLIP."""
    return tuple(read_toml(_bundled()))


def _locate(spec: str) -> tuple[Path, str]:
    if spec in recipe_names():
        return _bundled(), spec
    file, _, name = spec.partition(".toml:")
    path = Path(f"{file}.toml") if name else Path(spec)
    if not is_regular(path):
        raise ValueError(f"there is no recipe {spec!r}; name one of {', '.join(recipe_names())}, or a TOML file")
    return path, name


def _bundled() -> Path:
    return Path(str(files("rag_clip.index").joinpath("recipes.toml")))


def _read_table(kind: type[Any], table: object, path: Path, name: str) -> Any:
    if not isinstance(table, dict):
        raise ValueError(f"{name} is {table!r}; write a table [{name}]")
    try:
        source = check_settings(kind, table)
        return replace(source, files=_find(source.files, path)) if "files" in table else source
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _find(names: Sequence[Path], recipe: Path) -> tuple[Path, ...]:
    found = tuple(recipe.parent / name for name in names)
    missing = [path for path in found if not is_regular(path)]
    if missing:
        raise ValueError(f"there is no file {missing[0]}; paths are relative to the recipe")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
