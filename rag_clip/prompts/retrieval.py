"""How captions are retrieved and chosen: the `[retrieved]` table of a recipe, and what each of its words means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from rag_clip.display import counted
from rag_clip.prompts.retrieved import (
    Keep,
    Rewrite,
    as_written,
    contains_phrase,
    contains_substring,
    contains_token,
    without_name,
)
from rag_clip.store.schema import Filters

Search = Literal["dense", "lexical", "hybrid"]
Modality = Literal["text", "image"]
Contrast = Literal["none", "drop", "weigh"]
Trust = Literal["equal", "evidence", "known", "names"]
FILTERS: Mapping[str, Keep] = {
    "token": contains_token,
    "substring": contains_substring,
    "phrase": contains_phrase,
}
REWRITES: Mapping[str, Rewrite] = {"kept": as_written, "dropped": without_name}


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How captions are retrieved and chosen; weight, limit and query default to RePE's (see prompts.retrieved).

    weight: total weight of a class's captions.
    limit: captions used per class: the first that pass the filter.
    candidates: captions searched per class.
    search: `dense` searches with the embedding of `query`, as published; `lexical` searches with the bare name by BM25,
        which also finds names that the encoder has not learned; `hybrid`, the default, fuses both.
    query: template of the query of dense search.
    modality: dense search compares with the vectors of captions ("text"), or with those of images ("image"), whose
        captions are then used, as in the authors' code.
    keep: the filter: "token" (any word of the name), "substring" (as published) or "phrase" (the whole name or a whole
        synonym; then the search too is limited to captions that contain it).
    names: class names in captions are "kept", as published, or "dropped".
    contrast: "drop" refuses captions that name only other classes (see prompts.mentions); "weigh" also weights
        captions by how well they separate their class from the others (see prompts.contrast).
    trust: "evidence" gives the captions of each class their own total weight, up to `weight` (see prompts.contrast).
    where: filters by payload (see `Store.search`).
    plurals: with the filter "phrase", the plural of an English name counts as the name, and the singular of a plural
        (see prompts.plurals).

    With `trust` "names" captions share at most 0.25 equally, names kept, less what captions of any class say,
    beside an ensemble of templates, as fits an encoder that knows the names. With "known" the captions decide first
    which names the encoder knows (see prompts.known): if all, they share as with "names"; to captions of unknown
    names `contrast` and `names` apply, and trust is "evidence"; beside these, captions of known names share 0.25.
    Trust without contrast, and contrast with a weight of 0.75 or less, lowered accuracy
    (tests/benchmarks/recipes.py --full), so the defaults use neither. Raises ValueError for a value out of range.
    """

    weight: float = 0.25
    limit: int = 100
    candidates: int = 1000
    search: Search = "hybrid"
    query: str = "a photo of a {}."
    modality: Modality = "text"
    keep: str = "token"
    names: str = "kept"
    contrast: Contrast = "none"
    trust: Trust = "equal"
    where: Filters = field(default_factory=dict)
    plurals: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"the weight of the captions is {self.weight}; give a number from 0 to 1")
        if not 1 <= self.limit <= self.candidates:
            raise ValueError(
                f"limit is {self.limit} of {counted(self.candidates, 'candidate')}; give 1 <= limit <= candidates"
            )
        choices = (
            ("search", self.search, get_args(Search)),
            ("modality", self.modality, get_args(Modality)),
            ("contrast", self.contrast, get_args(Contrast)),
            ("trust", self.trust, get_args(Trust)),
            ("filter", self.keep, FILTERS),
        )
        for name, value, known in choices:
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known are {', '.join(known)}")
        if "{}" not in self.query:
            raise ValueError(f"query {self.query!r} has no '{{}}'; put '{{}}' where the class name goes")
        if self.of_images and not self.by_meaning:
            raise ValueError("lexical search compares no image vectors; use dense or hybrid search")
        if self.names not in REWRITES:
            raise ValueError(f"names in captions are {' or '.join(REWRITES)}, found {self.names!r}")
        if self.plurals and not self.whole_names:
            raise ValueError(f"plurals are forms of whole names, but the filter is {self.keep!r}; use keep = 'phrase'")

    @property
    def by_meaning(self) -> bool:
        """Whether vectors are compared, which needs the encoder of the index."""
        return self.search != "lexical"

    @property
    def by_words(self) -> bool:
        """Whether the words of the name are looked up."""
        return self.search != "dense"

    @property
    def of_images(self) -> bool:
        """Whether the query is compared with images instead of captions."""
        return self.modality == "image"

    @property
    def whole_names(self) -> bool:
        """Whether captions must hold a whole name, which lets the index look it up."""
        return self.keep == "phrase"

    @property
    def passes(self) -> Keep:
        """The filter of captions."""
        return FILTERS[self.keep]

    @property
    def rewrite(self) -> Rewrite:
        """What becomes of the class name in captions."""
        return REWRITES[self.names]

    @property
    def refuses_rivals(self) -> bool:
        """Whether captions that name only other classes are refused."""
        return self.contrast != "none"

    @property
    def separates(self) -> bool:
        """Whether captions count by how well they separate their class from the others."""
        return self.contrast == "weigh"

    @property
    def decides_names(self) -> bool:
        """Whether the captions decide which names the encoder knows."""
        return self.trust == "known"

    @property
    def knows_names(self) -> bool:
        """Whether every name counts as known."""
        return self.trust == "names"

    @property
    def weighs_classes(self) -> bool:
        """Whether the captions of a class get a total weight of their own."""
        return self.trust != "equal"

    @property
    def may_drop_names(self) -> bool:
        """Whether captions must make sense without the class name."""
        return self.names == "dropped" or self.decides_names or self.knows_names
