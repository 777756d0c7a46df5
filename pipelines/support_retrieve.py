"""Make a support set from an index of images: ask, keep out what is to be classified, concentrate, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Prompts
from rag_clip.display import counted
from rag_clip.files.outputs import holding
from rag_clip.files.support import check_support_path, write_support
from rag_clip.given import AnyEncoder, to_encoder, to_texts
from rag_clip.images.decoding import Decoding
from rag_clip.progress import Report, StageClock
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder
from rag_clip.store import open_store
from rag_clip.support.candidates import find_candidates
from rag_clip.support.concentrate import Concentrated, Concentration, concentrate
from rag_clip.support.decontaminate import Copies, Known, calibrate, decontaminate
from rag_clip.support.known import read_known
from rag_clip.support.retrieved import Candidates, Search, plan_queries, retrieved_support


@dataclass(frozen=True, slots=True)
class Containment:
    """How many of the `known` images to classify the candidates hold, and the share; copies by what told them first.

    `threshold` is the cosine from which on images were copies whatever their hash, `recall` the share found of copies
    that were made to measure on.
    """

    known: int
    contained: int
    rate: float
    exact: int
    perceptual: int
    cosine: int
    threshold: float
    recall: float


@dataclass(frozen=True, slots=True)
class RetrievedSummary:
    """What `retrieve_support` did: `images` of `classes` in `output`, chosen among `candidates`; dropped by reason.

    `agreement` is, by class, the share of the images found that zero-shot calls by the class's name; `fallen_back`
    names had too little of it and have no image, `missing` are all without one. `containment` is None where no images
    to classify were given.
    """

    output: Path
    images: int
    classes: int
    candidates: int
    dropped: Mapping[str, int]
    agreement: Mapping[str, float]
    fallen_back: tuple[str, ...]
    missing: tuple[str, ...]
    containment: Containment | None
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.output}: {counted(self.images, 'image')} of {counted(self.classes, 'class')}, "
            f"of {self.candidates} found"
        )

    __repr__ = __str__


@on_screen.job()
def retrieve_support(
    prompts: Prompts | str | Path,
    *,
    output: str | Path,
    index: str,
    encoder: AnyEncoder | None = None,
    search: Search = "class",
    candidates: int = 100,
    settings: Concentration | None = None,
    against: Sequence[str | Path] = (),
    image_column: str = "image",
    decoding: Decoding = Decoding(),  # noqa: B008
    force: bool = False,
    report: Report = on_screen,
) -> RetrievedSummary:
    """Write the support set that an index of images (see `index_images`) holds for the classes of `prompts`.

    `candidates` images are asked for per class, by `class`, `texts` or `captions` (see `plan_queries`); images equal or
    nearly equal to those of the Parquet files `against` are left out. Raises ValueError for an index of another encoder
    or without images, hashes, an output that is an input or, but with `force`, is of others, and where nothing is left;
    StoreError where the index is in use, BusyError where another process writes the output.
    """
    output, settings, clock = Path(output), settings or Concentration(), StageClock()
    check_support_path(output)
    prompts = to_texts(prompts)
    plan_queries(prompts, search=search, budget=candidates)
    encoder = to_encoder(encoder, recorded=prompts.provenance)
    with holding([(output, "support retrieve")], inputs=[index, against], force=force):
        with open_store(index, encoder=encoder.fingerprint) as store:
            with clock.stage("encode texts"):
                classifier = zero_shot(prompts, encoder, report=report)
            found = find_candidates(
                prompts, classifier, store, encoder, search=search, budget=candidates, clock=clock, report=report
            )
        if not len(found):
            raise ValueError(f"the index at {index} holds no image for any class by {search!r}; ask in another way")
        held, containment = found, None
        if against:
            with clock.stage("keep out"):
                known, copies = read_known(
                    against, encoder=encoder, image_column=image_column, decoding=decoding, report=report
                )
                held, containment = _keep_out(found, known, copies)
        with clock.stage("concentrate"):
            concentrated = concentrate(held, classifier, settings)
        facts = _provenance(encoder, index, search, candidates, settings, concentrated, containment)
        support = retrieved_support(
            prompts.labels, held.take(concentrated.rows), limit=settings.limit, provenance=facts
        )
        write_support(support, output)
    return RetrievedSummary(
        output,
        len(support),
        len(prompts.labels) - len(support.missing),
        len(found),
        _dropped(concentrated, containment),
        concentrated.agreement,
        concentrated.fallen_back,
        support.missing,
        containment,
        dict(clock.seconds),
    )


def _keep_out(found: Candidates, known: Known, copies: Copies) -> tuple[Candidates, Containment]:
    thresholds = calibrate(copies, known, found)
    contained = decontaminate(found, known, thresholds)
    facts = Containment(
        contained.known,
        contained.images,
        contained.rate,
        contained.exact,
        contained.perceptual,
        contained.cosine,
        thresholds.alone,
        thresholds.recall,
    )
    return found.take(contained.clean), facts


def _dropped(concentrated: Concentrated, containment: Containment | None) -> dict[str, int]:
    copies = containment.exact + containment.perceptual + containment.cosine if containment else 0
    return {**({"copy of an image to classify": copies} if copies else {}), **concentrated.dropped}


def _provenance(
    encoder: Encoder,
    index: str,
    search: Search,
    candidates: int,
    settings: Concentration,
    concentrated: Concentrated,
    containment: Containment | None,
) -> dict[str, Any]:
    return {
        "encoder": asdict(encoder.fingerprint),
        "method": "retrieved",
        "settings": {"search": search, "candidates": candidates, **asdict(settings)},
        "index": str(index),
        "dropped": _dropped(concentrated, containment),
        "fallen_back": list(concentrated.fallen_back),
        "containment": asdict(containment) if containment else None,
    }
