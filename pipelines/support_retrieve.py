"""Make a support set from an index of images: ask, keep out what is to be classified, concentrate, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Prompts
from rag_clip.display import counted
from rag_clip.files.outputs import holding
from rag_clip.files.support import check_support_path, write_support
from rag_clip.given import AnyEncoder, AnyIndex, index_place, opened, to_encoder, to_places, to_texts
from rag_clip.images.opening import Images
from rag_clip.progress import StageClock
from rag_clip.progress_line import on_screen
from rag_clip.store.card import check_encoder
from rag_clip.support.candidates import find_candidates
from rag_clip.support.concentrate import Concentrated, Concentration, concentrate
from rag_clip.support.decontaminate import Copies, Known, calibrate, decontaminate
from rag_clip.support.known import read_known
from rag_clip.support.retrieved import Candidates, ImageSearch, Search, retrieved_support

from .running import Running


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
    index: AnyIndex,
    encoder: AnyEncoder | None = None,
    search: ImageSearch | Search = "class",
    settings: Concentration = Concentration(),  # noqa: B008
    against: Images | str | Path | Sequence[str | Path] = (),
    running: Running = Running(),  # noqa: B008
) -> RetrievedSummary:
    """Write the support set that an index of images (see `index_images`) holds for the classes of `prompts`.

    prompts: the classes and their texts, or their file.
    output: a Parquet file.
    index: a folder, the address of a Qdrant server, or an open store.
    encoder: an encoder or the name of a model; by default the one that the prompts record.
    search: by `class`, `texts` or `captions` (see `plan_queries`), 100 candidates per class unless `ImageSearch` says
        otherwise.
    settings: which candidates are kept.
    against: images to be classified; candidates that equal them, or nearly do, are left out.
    running: processes, batch size, `force` and progress.

    Raises ValueError for an index of another encoder, or without images or their hashes, for an output that is an input
    or (without `force`) belongs to others, and if nothing is left; StoreError if the index is in use, BusyError if
    another process writes the output.
    """
    output, clock, report = Path(output), StageClock(report=running.report), running.report
    asked = search if isinstance(search, ImageSearch) else ImageSearch(search)
    check_support_path(output)
    prompts, against, place = to_texts(prompts), to_places(against, "against"), str(index_place(index))
    encoder = to_encoder(encoder, recorded=prompts.provenance)
    with holding([(output, "support retrieve")], inputs=[place, against.paths], force=running.force):
        with opened(index) as store:
            check_encoder(store.card, encoder.fingerprint, store.location)
            with clock.stage("encode texts"):
                classifier = zero_shot(prompts, encoder, report=report)
            candidates = find_candidates(prompts, classifier, store, encoder, asked=asked, clock=clock)
        if not len(candidates):
            raise ValueError(f"the index at {place} holds no image for any class by {asked.by!r}; ask in another way")
        clean, containment = candidates, None
        if against.paths:
            with clock.stage("keep out"):
                known, copies = read_known(against, encoder=encoder, decoding=running.decoding, report=report)
                clean, containment = _keep_out(candidates, known, copies)
        with clock.stage("concentrate"):
            concentrated = concentrate(clean, classifier, settings)
        facts = {
            "encoder": asdict(encoder.fingerprint),
            "method": "retrieved",
            "settings": {"search": asked.by, "candidates": asked.candidates, **asdict(settings)},
            "index": place,
            "dropped": _dropped(concentrated, containment),
            "fallen_back": list(concentrated.fallen_back),
            "containment": asdict(containment) if containment else None,
        }
        support = retrieved_support(
            prompts.labels, clean.take(concentrated.rows), limit=settings.limit, provenance=facts
        )
        write_support(support, output)
    return RetrievedSummary(
        output,
        len(support),
        len(prompts.labels) - len(support.missing),
        len(candidates),
        _dropped(concentrated, containment),
        concentrated.agreement,
        concentrated.fallen_back,
        support.missing,
        containment,
        dict(clock.seconds),
    )


def _keep_out(candidates: Candidates, known: Known, copies: Copies) -> tuple[Candidates, Containment]:
    thresholds = calibrate(copies, known, candidates)
    contained = decontaminate(candidates, known, thresholds)
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
    return candidates.take(contained.clean), facts


def _dropped(concentrated: Concentrated, containment: Containment | None) -> dict[str, int]:
    copies = containment.exact + containment.perceptual + containment.cosine if containment else 0
    return {**({"copy of an image to classify": copies} if copies else {}), **concentrated.dropped}
