"""Make a support set from an index of images: search, leave out images to classify, choose the best, write."""

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
from rag_clip.progress import Progress
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
    """How many of the images to classify are among the candidates.

    known: images to classify.
    contained, rate: how many of them are among the candidates, and their share.
    exact, perceptual, cosine: candidates left out, by the first test that found them: SHA-256, perceptual hash, cosine.
    threshold: the cosine from which images count as copies whatever their perceptual hash.
    recall: the share of altered copies, made to measure this, that were found.
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
    """What `retrieve_support` did.

    output: the support file.
    images, classes: images in the file, and classes that have some.
    candidates: images found, before any was left out.
    dropped: candidates left out, by reason.
    agreement: by class, the share of its images that zero-shot assigns to the class.
    fallen_back: classes with too little agreement, which have no image.
    missing: all classes without an image.
    containment: the images to classify among the candidates; None if none were given.
    seconds: per stage.
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
    """Write a support set of images for the classes of `prompts`, found in an index of images (see `index_images`).

    prompts: the classes and their texts, or their file.
    output: a Parquet file.
    index: a folder, the address of a Qdrant server, or an open store.
    encoder: an encoder or the name of a model; by default the one that the prompts record.
    search: by `class`, `texts` or `captions` (see `plan_queries`), 100 candidates per class unless `ImageSearch` says
        otherwise.
    settings: which candidates are kept.
    against: images to be classified; candidates that are copies of them, or nearly, are left out.
    running: processes, batch size, `force` and progress.

    Raises ValueError for an index of another encoder, or without images or their hashes, for an output that is an input
    or (without `force`) belongs to another program, and if no image is left; StoreError if the index is in use,
    BusyError if another process writes the output.
    """
    output, progress, report = Path(output), Progress(report=running.report), running.report
    asked = search if isinstance(search, ImageSearch) else ImageSearch(search)
    check_support_path(output)
    prompts, against, place = to_texts(prompts), to_places(against, "against"), str(index_place(index))
    encoder = to_encoder(encoder, recorded=prompts.recorded.encoder)
    with holding([(output, "support retrieve")], inputs=[place, against.paths], force=running.force):
        with opened(index) as store:
            check_encoder(store.card, encoder.fingerprint, store.location)
            with progress.stage("encode texts"):
                classifier = zero_shot(prompts, encoder, report=report)
            candidates = find_candidates(prompts, classifier, store, encoder, asked=asked, progress=progress)
        if not len(candidates):
            raise ValueError(
                f"the index at {place} has no image for any class when searched by {asked.by!r}; search in another way"
            )
        clean, containment = candidates, None
        if against.paths:
            with progress.stage("keep out"):
                known, copies = read_known(against, encoder=encoder, decoding=running.decoding, report=report)
                clean, containment = _keep_out(candidates, known, copies)
        with progress.stage("concentrate"):
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
        dict(progress.seconds),
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
