"""Values of a file checked against a model: what is wrong, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from rag_clip.files.settings import check_settings, refuse_unknown


class Edge(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["edge"]
    width: int = Field(default=1, ge=1, le=9)


class Fill(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["fill"]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")
    parts: tuple[Edge, ...] = Field(default=(), min_length=0)
    styles: dict[str, Annotated[Edge | Fill, Field(discriminator="kind")]] = {}
    ratio: float = Field(default=1.0, gt=0, lt=2)
    open: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    title: str
    shape: Shape
    sizes: Mapping[Literal["small", "large"], int] = field(default_factory=dict)
    file: Path | None = None

    def __post_init__(self) -> None:
        if not self.title:
            raise ValueError("the title is empty; give one")


GOOD = {"title": "a", "shape": {}}


def test_values_become_the_model_with_its_defaults() -> None:
    values = {"title": "a", "shape": {"parts": [{"kind": "edge", "width": 2}]}, "sizes": {"small": 3}}
    assert check_settings(Drawing, values) == Drawing("a", Shape(parts=(Edge(kind="edge", width=2),)), {"small": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "b"}, "unknown key 'titel'; did you mean title? known are title, shape, sizes, file"),
        ({"title": ""}, "the title is empty; give one"),
        ({"title": 3}, "title is 3; give a text"),
        ({"shape": 3}, "shape is 3; give a table"),
        ({"shape": {"rat": 1}}, "unknown key 'shape.rat'; did you mean ratio? known are parts, styles, ratio, open"),
        ({"shape": {"ratio": 2}}, "shape.ratio is 2; give a number below 2.0"),
        ({"shape": {"ratio": "x"}}, "shape.ratio is 'x'; give a number"),
        ({"shape": {"open": "x"}}, "shape.open is 'x'; give true or false"),
        ({"shape": {"parts": 1}}, "shape.parts is 1; give a list"),
        ({"shape": {"parts": [{}]}}, "has no 'shape.parts.0.kind'; needed are kind"),
        (
            {"shape": {"parts": [{"kind": "edge", "width": 0}]}},
            "shape.parts.0.width is 0; give a number of at least 1",
        ),
        (
            {"shape": {"styles": {"a": {"kind": "edge", "width": 10}}}},
            "shape.styles.a.width is 10; give a number",
        ),
        (
            {"shape": {"styles": {"a": {"kind": "no"}}}},
            "shape.styles.a is {'kind': 'no'}; give 'edge', 'fill' as its 'kind'",
        ),
        ({"sizes": {"smal": 1}}, "unknown key 'sizes.smal'; did you mean small? known are small, large"),
        ({"sizes": {"small": 1.5}}, "sizes.small is 1.5; give a whole number"),
        ({"file": 1}, "file is 1; give a path"),
        ({"title": 1, "shape": {"open": 3}}, "title is 1; give a text; also shape.open is 3; give true or false"),
    ],
)
def test_what_is_wrong_is_said_with_its_key_and_the_cure(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_settings(Drawing, GOOD | changes)


def test_what_is_missing_is_said_with_all_that_is_needed() -> None:
    with pytest.raises(ValueError, match=r"^has no 'shape'; needed are title, shape$"):
        check_settings(Drawing, {"title": "a"})
    with pytest.raises(ValueError, match=r"^is \[\]; write a table$"):
        check_settings(Drawing, [])


def test_known_keys_pass() -> None:
    refuse_unknown(["a", "b"], ["b", "a"])
    with pytest.raises(ValueError, match=r"^unknown source 'c'; known are b, a$"):
        refuse_unknown(["a", "c"], ["b", "a"], what="source")
