"""The heads by name: settings, requirements and paper of each; a head builds a classifier from support images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rag_clip.classifiers.anchored import EvidenceSettings
from rag_clip.classifiers.ballad import BalladSettings
from rag_clip.classifiers.como import CoMoFSettings, CoMoSettings
from rag_clip.classifiers.coop import CoOpSettings
from rag_clip.classifiers.dpt import DPTSettings
from rag_clip.classifiers.floor import floored
from rag_clip.classifiers.gaussian import GaussianSettings
from rag_clip.classifiers.linear_probe import LinearProbeSettings
from rag_clip.classifiers.priming import PrimingSettings
from rag_clip.classifiers.ridge import RidgeSettings
from rag_clip.classifiers.tip_adapter import TipAdapterFSettings, TipAdapterSettings
from rag_clip.classifiers.tip_x import TipXSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Fingerprint, Support, Validation
from rag_clip.files.reading import read_toml
from rag_clip.files.settings import check_settings
from rag_clip.progress import Report, silent
from rag_clip.protocols import Classifier, Encoder


class HeadSettings(Protocol):
    """The settings of a head: a frozen dataclass with the paper's defaults, which builds the head's classifier."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def build(
        self,
        zero_shot: ZeroShot,
        support: Support,
        *,
        validation: Validation | None = None,
        encoder: Encoder | None = None,
        report: Report = silent,
    ) -> Classifier:
        """Return the classifier that combines the texts with a support set.

        zero_shot: the classifier of the texts alone.
        support: the support images.
        validation: images on which settings that are None are chosen.
        encoder: used by heads that train texts.
        report: called with the progress of training or of a search.

        A head ignores the arguments it has no use for. Raises ValueError if support or validation do not fit the
        classifier.
        """


@dataclass(frozen=True, slots=True)
class Head:
    """A way to use support images: its settings, its paper, what it is good for, and what it needs.

    `caution` limits how much of the head is used when no image can judge it, and `weighs_found` is true if it gives
    images that are not labelled their weight itself (see `classifiers/floor.py`). `trains` is true if it learns by
    gradients, `trains_texts` if it does so through the text tower of an encoder. `reads_images` is true if it changes
    the image tower: it needs the images of the support, and its classifier encodes images itself.
    """

    settings: type[HeadSettings]
    paper: str
    good_for: str
    caution: float | None = None
    weighs_found: bool = False
    trains: bool = False
    trains_texts: bool = False
    second_encoder: bool = False
    reads_images: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        """Its settings as plain values; None means chosen by validation, by leave-one-out, or as published."""
        return asdict(self.settings())

    @property
    def needs(self) -> str:
        """What it needs besides class names, in words."""
        more = [", features by a second encoder"] if self.second_encoder else []
        more += [" with its images"] if self.reads_images else []
        trained = [", training"] if self.trains else []
        return "".join(["support", *more, *trained, "" if self.reads_images else "; may use validation"])


DEFAULT_HEAD = "ridge"  # used when a support file is given without a head
HEADS: Mapping[str, Head] = {
    "tip_adapter": Head(
        TipAdapterSettings,
        "Zhang et al., 2022, arXiv 2207.09519",
        "labelled shots with a small cache; not images found for names, which the floor then hardly uses",
    ),
    "tip_adapter_f": Head(
        TipAdapterFSettings,
        "Zhang et al., 2022, arXiv 2207.09519",
        "eight shots a class and more, where a cache may be trained",
        10.0,
        trains=True,
    ),
    "tip_x": Head(
        TipXSettings,
        "Udandarao et al., 2023, arXiv 2211.16198",
        "labelled shots, best on one and two of CLIP; not images found for names, which the floor then hardly uses",
    ),
    "como": Head(
        CoMoSettings,
        "Zhang et al., 2022, arXiv 2209.12255",
        "two encoders; the largest gains of one to four shots where the second knows the domain",
        second_encoder=True,
    ),
    "como_f": Head(
        CoMoFSettings,
        "Zhang et al., 2022, arXiv 2209.12255",
        "two encoders and eight shots a class and more; gained nothing over como on WHU-RS19",
        5.0,
        trains=True,
        second_encoder=True,
    ),
    "coop": Head(
        CoOpSettings,
        "Zhou et al., 2022, arXiv 2109.01134",
        "prompts to keep and to hand on, 16 shots a class",
        trains=True,
        trains_texts=True,
    ),
    "dpt": Head(
        DPTSettings,
        "Xing et al., 2023, arXiv 2208.08340",
        "prompts of both towers to keep, where there are minutes to train; encodes images anew",
        trains=True,
        trains_texts=True,
        reads_images=True,
    ),
    "ballad": Head(
        BalladSettings,
        "Ma et al., 2021, arXiv 2111.14745",
        "long tails, with four shots a class and more",
        3.0,
        trains=True,
    ),
    "gaussian": Head(
        GaussianSettings,
        "Wang et al., 2024, arXiv 2402.04087",
        "one to sixteen labelled shots of each class: among the best at each",
        2.0,
    ),
    "ridge": Head(
        RidgeSettings,
        "Bendou et al., 2025, arXiv 2501.11175",
        "the default: found and labelled images alike, in milliseconds; among the best at every number of shots",
    ),
    "linear_probe": Head(
        LinearProbeSettings,
        "Li et al., 2022, arXiv 2204.08790",
        "sixteen shots a class and more, and images of several labels",
        10.0,
        trains=True,
    ),
    "priming": Head(
        PrimingSettings,
        "Wallingford et al., 2023, arXiv 2306.10191",
        "one shot a class, and images found for names",
        weighs_found=True,
    ),
    "evidence": Head(
        EvidenceSettings,
        "ours",
        "one or two shots a class beside --refine; sums of images from several sources, without the images themselves",
        weighs_found=True,
    ),
}


def build_head(
    head: str | HeadSettings,
    support: Support,
    *,
    encoder: Encoder | None,
    options: Mapping[str, Any] | None = None,
    validation: Validation | None = None,
    floor: bool = False,
    report: Report = silent,
) -> Callable[[ZeroShot], Classifier]:
    """Return a function that builds a head from a ZeroShot.

    head: the name of a head, or its settings as a value.
    support: the support images.
    encoder: needed by heads that train texts, else None.
    options: settings that differ from the defaults, for a head given by name.
    validation: images on which open settings are chosen.
    floor: let evidence decide how much of the head is used beside the texts (`classifiers/floor.py`); a head that
        encodes images itself is always used whole.
    report: called with the progress.

    Raises ValueError as `head_settings`, and if the head needs an encoder and none is given.
    """
    settings = head_settings(head, options)
    name = head_name(settings)
    check_encoder(name, encoder)

    def build(zero_shot: ZeroShot) -> Classifier:
        def part(support: Support, validation: Validation | None) -> Classifier:
            return settings.build(zero_shot, support, validation=validation, encoder=encoder, report=report)

        known = HEADS[name]
        if not floor or known.reads_images:
            return part(support, validation)
        return floored(
            zero_shot, part, support, validation=validation, caution=known.caution, weighs_found=known.weighs_found,
            report=report,
        )  # fmt: skip

    return build


def check_encoder(name: str, encoder: Encoder | Fingerprint | None) -> None:
    """Raise ValueError if the head `name` trains texts through an encoder and `encoder` is None."""
    if encoder is None and HEADS[name].trains_texts:
        raise ValueError(f"{name} trains texts through an encoder; name the model")


def check_on_features(name: str) -> None:
    """Raise ValueError if the head `name` encodes images itself, where images are given as features."""
    if HEADS[name].reads_images:
        raise ValueError(
            f"{name} changes the image tower, so it has no use for features of the frozen one; use `rag-clip classify`"
        )


def head_name(settings: HeadSettings) -> str:
    """Return the name of the head that the settings belong to; raises ValueError if they belong to none in `HEADS`."""
    for name, head in HEADS.items():
        if type(settings) is head.settings:
            return name
    raise ValueError(f"{type(settings).__name__} are not the settings of a head; known are {', '.join(HEADS)}")


def head_settings(head: str | HeadSettings, options: Mapping[str, Any] | None = None) -> HeadSettings:
    """Return the settings of a head: its defaults updated with `options`, or `head` itself if it is a settings value.

    Raises ValueError for an unknown head, for options that the head does not have or that have another type, and for
    options given together with a settings value.
    """
    if not isinstance(head, str):
        if options:
            raise ValueError(
                f"the settings of {head_name(head)} are given as {head}; change them there, not by options"
            )
        return head
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}; known are {', '.join(HEADS)}")
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ValueError(f"the settings of {head} are {options!r}; write a table [{head}]")
    try:
        return check_settings(HEADS[head].settings, options)
    except ValueError as error:
        raise ValueError(f"{head}: {error}") from None


def describe_settings(head: str | HeadSettings, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of a head as plain values, for files: its defaults updated with `options`."""
    return {**HEADS[head].defaults, **(options or {})} if isinstance(head, str) else asdict(head)


def read_options(path: str | Path) -> dict[str, Any]:
    """Read a head's settings from TOML; raises ValueError if it is not TOML, OSError if it cannot be read."""
    return read_toml(Path(path))
