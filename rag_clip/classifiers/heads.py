"""The heads by name: what builds each, what it needs, and its settings; a head makes a classifier of support images."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rag_clip.classifiers.ballad import ballad
from rag_clip.classifiers.como import como, como_f
from rag_clip.classifiers.coop import coop
from rag_clip.classifiers.floor import floored
from rag_clip.classifiers.gaussian import gaussian
from rag_clip.classifiers.linear_probe import linear_probe
from rag_clip.classifiers.priming import priming
from rag_clip.classifiers.ridge import ridge
from rag_clip.classifiers.tip_adapter import tip_adapter, tip_adapter_f
from rag_clip.classifiers.tip_x import tip_x
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Fingerprint, Support, Validation
from rag_clip.files.reading import read_toml
from rag_clip.progress import Report, silent
from rag_clip.protocols import Classifier, Encoder

GIVEN = ("zero_shot", "support", "encoder", "validation", "report")


@dataclass(frozen=True, slots=True)
class Head:
    """A way to use support images: what builds it, its paper, what it is good for, and whether it trains by gradients.

    `caution` decides how much of it is used where no image can judge it, see `classifiers/floor.py`.
    """

    build: Callable[..., Classifier]
    paper: str
    good_for: str
    caution: float | None = None
    trains: bool = False
    second_encoder: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Its options with their defaults; None is chosen by validation, by leave-one-out, or as published."""
        parameters = inspect.signature(self.build).parameters
        return {name: _plain(one.default) for name, one in parameters.items() if name not in GIVEN}

    @property
    def needs(self) -> str:
        """What it needs beside names, in words."""
        more = [", features by a second encoder"] if self.second_encoder else []
        trained = [", training"] if self.trains else []
        return "".join(["support", *more, *trained, "; may use validation" if self.validates else ""])

    @property
    def validates(self) -> bool:
        """Whether validation images can choose its settings."""
        return "validation" in inspect.signature(self.build).parameters


DEFAULT_HEAD = "ridge"  # of a support file for which none is named
HEADS: Mapping[str, Head] = {
    "tip_adapter": Head(
        tip_adapter,
        "Zhang et al., 2022, arXiv 2207.09519",
        "images found for names, where little may change; small gains, never far from the texts",
    ),
    "tip_adapter_f": Head(
        tip_adapter_f,
        "Zhang et al., 2022, arXiv 2207.09519",
        "eight shots a class and more, where a cache may be trained",
        5.0,
        trains=True,
    ),
    "tip_x": Head(
        tip_x, "Udandarao et al., 2023, arXiv 2211.16198", "as tip_adapter; better on one and two shots of CLIP"
    ),
    "como": Head(
        como,
        "Zhang et al., 2022, arXiv 2209.12255",
        "two encoders; the largest gains of one to four shots where the second knows the domain",
        second_encoder=True,
    ),
    "como_f": Head(
        como_f,
        "Zhang et al., 2022, arXiv 2209.12255",
        "two encoders and four shots a class and more",
        5.0,
        trains=True,
        second_encoder=True,
    ),
    "coop": Head(
        coop, "Zhou et al., 2022, arXiv 2109.01134", "prompts to keep and to hand on, 16 shots a class", trains=True
    ),
    "ballad": Head(
        ballad, "Ma et al., 2021, arXiv 2111.14745", "long tails, with four shots a class and more", 2.0, trains=True
    ),
    "gaussian": Head(
        gaussian,
        "Wang et al., 2024, arXiv 2402.04087",
        "one to sixteen labelled shots of each class: among the best at each",
        2.0,
    ),
    "ridge": Head(
        ridge,
        "Bendou et al., 2025, arXiv 2501.11175",
        "the default: found and labelled images alike, in milliseconds; among the best at every number of shots",
    ),
    "linear_probe": Head(
        linear_probe,
        "Li et al., 2022, arXiv 2204.08790",
        "sixteen shots a class and more, and images of several labels",
        5.0,
        trains=True,
    ),
    "priming": Head(
        priming, "Wallingford et al., 2023, arXiv 2306.10191", "one shot a class, and images found for names"
    ),
}


def build_head(
    name: str,
    support: Support,
    *,
    encoder: Encoder | None,
    options: Mapping[str, Any] | None = None,
    validation: Validation | None = None,
    floor: bool = False,
    report: Report = silent,
) -> Callable[[ZeroShot], Classifier]:
    """Return a function that builds head `name` from a ZeroShot; `options` are settings of `HEADS[name]`.

    With `floor`, evidence decides how much of the head is used beside the texts (`classifiers/floor.py`).

    Raises ValueError for an unknown head, unknown or ill-typed options, validation that the head cannot use, and no
    encoder where it needs one.
    """
    settings = check_options(name, options or {})
    head = HEADS[name]
    if validation is not None and not head.validates:
        raise ValueError(f"{name} chooses nothing by validation images; leave them out")
    check_encoder(name, encoder)
    taken = inspect.signature(head.build).parameters

    def build(zero_shot: ZeroShot, support: Support, validation: Validation | None) -> Classifier:
        given = {"encoder": encoder, "validation": validation, "report": report}
        return head.build(zero_shot, support, **{key: given[key] for key in given if key in taken}, **settings)

    if not floor:
        return lambda zero_shot: build(zero_shot, support, validation)
    return lambda zero_shot: floored(
        zero_shot, partial(build, zero_shot), support, validation=validation, caution=head.caution, report=report
    )


def check_encoder(name: str, encoder: Encoder | Fingerprint | None) -> None:
    """Raise ValueError where the head `name` trains texts through an encoder, and there is none."""
    if encoder is None and "encoder" in inspect.signature(HEADS[name].build).parameters:
        raise ValueError(f"{name} trains texts through an encoder; name the model")


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of the head `name` in its types; raises ValueError for those it lacks, and an unknown head."""
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}; known are {', '.join(HEADS)}")
    head = HEADS[name]
    if not isinstance(options, Mapping):
        raise ValueError(f"the settings of {name} are {options!r}; write a table [{name}]")
    unknown = [key for key in options if key not in head.settings]
    if unknown:
        raise ValueError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(head.settings)}")
    hints = get_type_hints(head.build)
    checked = {}
    for key, value in options.items():
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{name}, setting {key}: {error.errors()[0]['msg']}; found {value!r}") from None
    return checked


def read_options(path: str | Path) -> dict[str, Any]:
    """Read the settings of a head from TOML; raises ValueError for a file that is not TOML, OSError for none."""
    return read_toml(Path(path))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
