"""Classify Parquet files of images: decode, encode, match, and write every input row beside its prediction.

Features are stored shard by shard before anything is matched: an interrupted run, or other labels with the same
`features_dir`, use the shards that are there and decode only the rest.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.compute as pc

from rag_clip.classifiers.anchored import held_evidence
from rag_clip.classifiers.coop import learned_zero_shot
from rag_clip.classifiers.dpt import DPT
from rag_clip.classifiers.heads import HEADS
from rag_clip.classifiers.hubs import HubBank, correct_hubs
from rag_clip.classifiers.learned_match import match_classes
from rag_clip.classifiers.match import Scoring, check_scores
from rag_clip.classifiers.prepared import PreparedHead
from rag_clip.classifiers.reuse import NOTHING, Reuse
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shots
from rag_clip.data import Prompts
from rag_clip.display import MOST_ROWS, counted, html_table
from rag_clip.files.features import FeatureRows
from rag_clip.files.folders import make_folder, sync_folder
from rag_clip.files.learned_prompts import LearnedPrompts
from rag_clip.files.outputs import check_outputs, holding, remove_folder
from rag_clip.given import (
    AnyEncoder,
    AnyImages,
    ManyPrompts,
    image_files,
    kept_with,
    scratch_output,
    to_candidates,
    to_encoder,
    to_images,
)
from rag_clip.images.joined import encode_by_all
from rag_clip.images.kept import keep_columns
from rag_clip.models.towers import two_towers
from rag_clip.models.visual_prompts import prompted, read_visual_prompts
from rag_clip.progress import Progress, Report
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Classifier, Encoder, has_trained_bias
from rag_clip.refinement.batch import RefinementFacts, images_to_refine, refine
from rag_clip.refinement.choose_prompts import choose_prompts, images_to_choose
from rag_clip.report.tally import Predicted, Tally

from .chunks import Chunks, refine_chunks
from .open_world import NoveltyFacts, prepare_rejection, read_negatives, read_shots
from .predictions import columns_of, output_schema, predict_rows, prediction_columns, write_predictions
from .running import Running
from .unlabelled import sample_sources


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ClassifySummary:
    """What `classify` did.

    output: the predictions file.
    rows, failed: rows of the file, and rows with an error and no label.
    decoded, from_cache: rows encoded in this run, and rows with features from an earlier run.
    columns: the names of the columns added.
    predicted: how many images each class got, and which predictions are least certain.
    chosen: which of several prompts the images chose, with their scores; empty for one.
    refined: how much refinement changed; None without it.
    novelty: how images of none of the classes were told, and how many there are; None without an open world.
    seconds: per stage; "decode" is the mean over the workers, "write" includes reading the rows once more.
    bottleneck: the slowest stage.
    """

    output: Path
    rows: int
    failed: int
    decoded: int
    from_cache: int
    columns: tuple[str, ...]
    predicted: Predicted
    chosen: Mapping[str, Any]
    refined: RefinementFacts | None
    novelty: NoveltyFacts | None
    seconds: Mapping[str, float]
    bottleneck: str

    def to_polars(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows with their predictions, or only the `columns` named, such as ["path", *summary.columns]."""
        return pl.read_parquet(self.output, columns=None if columns is None else list(columns))

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.output}: {counted(self.rows, 'row')}, {self.failed} failed; "
            f"{self.decoded} decoded, {self.from_cache} from cached features"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        plain = pl.scan_parquet(self.output).select(~(cs.binary() | cs.nested()))
        return html_table(str(self), plain.head(MOST_ROWS + 1).collect().iter_rows(named=True))


@on_screen.job()
def classify(
    images: AnyImages,
    *,
    prompts: ManyPrompts,
    output: str | Path | None = None,
    encoder: AnyEncoder | None = None,
    head: PreparedHead | None = None,
    scoring: Scoring = Scoring(),  # noqa: B008
    reuse: Reuse = NOTHING,
    running: Running = Running(),  # noqa: B008
) -> ClassifySummary:
    """Write the rows of `images` to `output` with label, score, top_k_labels, top_k_scores and error beside them.

    images: paths, a frame, or images in memory; `Images` where a column has another name, or the first rows are enough.
    prompts: prompts, learned ones (CoOp, DPT) included, or their file. Several, in a list or a mapping from names, have
        the same classes, and the images choose among them: see `refinement.choose_texts`.
    output: a Parquet file; without it, the predictions are in a temporary file for as long as the summary exists.
    encoder: an encoder or the name of a model; by default the one that the prompts record.
    head: builds the classifier from the zero-shot one; see `prepare_head`. An image on which one of the head's further
        encoders fails has an error.
    scoring: how many classes each image gets, what their scores mean, whether all images of the file, or of a chunk
        of consecutive rows, are evidence for each, and whether images may be none of the classes. Sigmoid scores are
        for texts alone, with an encoder that was trained with a logit bias; the labels and their order are the same.
    reuse: a folder that keeps image features for other prompts, and the index whose captions are already encoded.
    running: processes, batch size, `force` and progress.

    The five columns take the prefix `predicted_` if the input has a column with one of these names. An unusable image
    has an error and no label, and the run goes on. `output` appears when it is complete; until then, finished parts are
    in `output`.parts, and the same call continues from there. Memory is bounded for files and row groups of any size.

    Raises ValueError for input, prompts or settings that cannot be used, and for an `output` that is an input or
    (without `force`) not of an earlier call; FileNotFoundError for a missing file, OSError if a file is damaged or
    cannot be written, and BusyError if another process writes `output`.
    """
    images, candidates, report = to_images(images), to_candidates(prompts), running.report
    first = next(iter(candidates.values()))
    files, progress = images.open(), Progress(report=report)
    others = {**(head.others if head else {}), **scoring.further}
    output, let_go = scratch_output(output, "predictions.parquet")
    written = classify_outputs(output, reuse.features_dir)
    named = [
        *(scoring.open_world.places if scoring.open_world else ()),
        scoring.hub_bank.place if scoring.hub_bank else None,
    ]
    check_outputs(written, inputs=[image_files(images), reuse.place, named], force=running.force)
    encoder = to_encoder(encoder, recorded=first.recorded.encoder)
    texts_alone = head is None and not isinstance(first, LearnedPrompts)
    check_scores(scoring.scores, trained_bias=has_trained_bias(encoder), texts_alone=texts_alone)
    columns = prediction_columns(files[0].schema.names, scoring)
    world, bank = scoring.open_world, scoring.hub_bank
    if bank and head:
        raise ValueError("the hub correction is of texts alone; leave out the bank, or the head")
    if world and isinstance(first, LearnedPrompts):
        raise ValueError("novelty compares texts of the classes with other texts, and learned prompts have none")
    if scoring.compared != "pooled":
        _check_matching(scoring.compared, candidates, head, reuse)
    _check_image_tower(head, candidates, scoring)
    files, kept = keep_columns(files)
    with holding(written, force=running.force):
        with progress.stage("prompts"):
            texts = _text_classifiers(candidates, encoder, reuse, report)
            used, text = first, texts[0]
            classifier = _finished(head, bank, text, encoder) if len(texts) == 1 else text
            negatives = read_negatives(world, first.labels, report=report) if world else None
            shots = read_shots(world, first.labels, encoder) if world else None
            images_by: Encoder = encoder
            if isinstance(first, LearnedPrompts) and first.visual:
                images_by = prompted(two_towers(encoder), read_visual_prompts(first.visual))
            if isinstance(classifier, DPT):
                images_by, text, classifier = classifier.tower, classifier.learned, classifier.learned
            if scoring.compared != "pooled" and isinstance(used, Prompts):
                images_by, classifier = match_classes(scoring.compared, text, used, encoder)
            if bank and len(texts) > 1:  # before the images are encoded
                next(bank.read(encoder.fingerprint), None)
        sources, missing = encode_by_all(
            files,
            reuse.features_dir or parts_of(output),
            encoder=images_by,
            others=others,
            decoding=running.decoding,
            progress=progress,
        )
        rows, failed = sum(file.rows for file in files), sum(cache.count_failed() for _, cache in sources)
        enough = images_to_choose(len(text.labels))
        most, whole = images_to_refine(len(text.labels)), scoring.refine and scoring.chunk is None
        if len(texts) > 1 or whole:
            with progress.stage("sample"):
                sample = sample_sources(sources, encoder, most if whole else enough)
        if len(texts) > 1:
            with progress.stage("choose"):
                chosen = choose_prompts(_texts_of(candidates), texts, sample.pooled[:enough])
                used, text = chosen.prompts, chosen.classifier
                classifier = _finished(head, bank, text, encoder)
        refinement, chunks = None, None
        if scoring.refine:
            held, further = held_evidence(classifier), tuple(scoring.further)
            refined_by = partial(refine, classifier, texts=text.weights, held=held, further=further)
            if scoring.chunk is None:
                with progress.stage("refine"):
                    classifier = refined_by(sample)
                    refinement = classifier.facts
            else:
                each = refine_chunks(sources, encoder, rows=scoring.chunk, most=most, refine=refined_by)
                chunks = Chunks(scoring.chunk, progress.timed("refine", each))
        rejection, novelty = None, None
        if world and negatives and isinstance(used, Prompts):
            with progress.stage("negatives"):
                rejection, novelty = prepare_rejection(
                    world, negatives, text, used, encoder, shots=shots, report=report
                )
        facts = _run_facts(used, encoder, others, head)
        facts |= {"refined": None if refinement is None else asdict(refinement)}
        if scoring.chunk is not None:  # what they change is known when all is written
            facts |= {"refined": {"chunk": scoring.chunk, "chunks": -(-rows // scoring.chunk)}}
        if scoring.compared != "pooled":
            facts |= {"compared": scoring.compared}
        if bank is not None:
            facts |= {"hub_bank": {"place": str(bank.place), "weight": bank.weight}}
        if novelty is not None:
            facts |= {"novelty": asdict(novelty)}
        facts_of_scoring = {"top_k": scoring.top_k, "scores": scoring.scores, "refine": scoring.refine}
        facts |= {"image_column": files[0].image, **facts_of_scoring, "rows": rows, "failed": failed}
        types = dict(zip(columns, columns_of(scoring).values(), strict=True))
        schema, advance = output_schema(kept, types, facts), progress.counting("write", rows)
        tally, novel, labels = Tally(), 0, set[str]()

        def predict(features: FeatureRows) -> list[pa.Array]:
            nonlocal novel
            parts = [
                predict_rows(
                    part,
                    by,
                    scoring=scoring,
                    rejection=rejection,
                    batch_size=running.batch_size,
                    device=encoder.device,
                )
                for part, by in (chunks.parts(features) if chunks else [(features, classifier)])
            ]
            predicted = [pa.concat_arrays(columns) for columns in zip(*parts, strict=True)]
            if chunks:
                labels.update(pc.list_element(predicted[2].drop_null(), 0).unique().to_pylist())
            tally.add(predicted[0], predicted[1])
            if novelty is not None:
                novel += pc.sum(pc.greater(predicted[-1], novelty.threshold)).as_py() or 0
            return predicted

        with replacing_output(output, parts_of(output)) as unfinished:
            write_predictions(
                unfinished, sources, schema=schema, kept=kept, predict=predict, progress=progress, advance=advance
            )
    summary = ClassifySummary(
        output,
        rows,
        failed,
        missing,
        rows - missing,
        columns,
        tally.report(text.labels.names),
        dict(used.recorded.chosen),
        chunks.total(len(labels)) if chunks else refinement,
        None if novelty is None else replace(novelty, novel=novel),
        dict(progress.seconds),
        progress.bottleneck,
    )
    return kept_with(summary, let_go)


def _text_classifiers(
    candidates: Mapping[str, Prompts | LearnedPrompts], encoder: Encoder, reuse: Reuse, report: Report
) -> list[ZeroShot]:
    learned = [each for each in candidates.values() if isinstance(each, LearnedPrompts)]
    if learned:
        return [learned_zero_shot(each, two_towers(encoder)) for each in learned]
    texts = list(_texts_of(candidates).values())
    return zero_shots(texts, encoder, known=reuse.vectors(texts, encoder), report=report)


def _check_matching(
    compared: str, candidates: Mapping[str, Prompts | LearnedPrompts], head: PreparedHead | None, reuse: Reuse
) -> None:
    """Raise ValueError for what reads pooled features of images, or has no texts of its own."""
    if head is not None:
        raise ValueError(f"a head reads pooled features, and matching by {compared} has none; leave one of the two out")
    if reuse.features_dir is not None:
        raise ValueError(
            f"kept features are pooled, and matching by {compared} compares images with these classes anew; leave the "
            "folder of features out"
        )
    if len(candidates) > 1:
        raise ValueError(f"images choose among prompts by pooled features; give one prompts file with {compared}")
    if not _texts_of(candidates):
        raise ValueError(f"learned prompts were learned for pooled features; give texts to match with {compared}")


def _check_image_tower(
    head: PreparedHead | None, candidates: Mapping[str, Prompts | LearnedPrompts], scoring: Scoring
) -> None:
    """Raise ValueError for what reads features of the frozen image tower, where visual prompts change the tower."""
    visual = any(isinstance(each, LearnedPrompts) and each.visual for each in candidates.values())
    name = head.facts["name"] if head else ""
    if visual and name:
        raise ValueError(f"{name} reads features of the image tower that these prompts change; leave one of them out")
    if not visual and not (name in HEADS and HEADS[name].reads_images):
        return
    if len(candidates) > 1:
        raise ValueError(f"{name} learns from one prompts file; give one")
    if scoring.open_world or scoring.hub_bank:
        what = "novelty" if scoring.open_world else "the hub correction"
        raise ValueError(f"{what} reads features of the image tower that visual prompts change; leave one of them out")


def _texts_of(candidates: Mapping[str, Prompts | LearnedPrompts]) -> dict[str, Prompts]:
    return {name: each for name, each in candidates.items() if isinstance(each, Prompts)}


def _finished(head: PreparedHead | None, bank: HubBank | None, text: ZeroShot, encoder: Encoder) -> Classifier:
    if bank is not None:
        return correct_hubs(text, bank.read(encoder.fingerprint), weight=bank.weight)
    return head.build(text) if head else text


def parts_of(output: Path) -> Path:
    """Return the folder of the finished parts of an incomplete output."""
    return output.with_name(f"{output.name}.parts")


def classify_outputs(output: Path, features: str | Path | None) -> list[tuple[str | Path | None, str]]:
    """Return what `classify` writes, for `check_outputs`; raises ValueError for another suffix than .parquet."""
    if output.suffix.lower() != ".parquet" and not output.is_dir():
        raise ValueError(f"the output {output} would be Parquet; give it the suffix .parquet")
    return [(output, "classify"), (parts_of(output), "parts"), (features, "features")]


@contextmanager
def replacing_output(output: Path, parts: Path) -> Iterator[Path]:
    """Yield a path in `parts` to write to; then move it to `output` and remove `parts`, or keep the finished shards."""
    partial_output = parts / "output.parquet"
    try:
        make_folder(parts)
        yield partial_output
        partial_output.replace(output)
        sync_folder(output.parent)
    except BaseException as error:
        partial_output.unlink(missing_ok=True)
        with suppress(OSError):  # it holds finished shards
            parts.rmdir()
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            reason = f"cannot write {output} ({error}); make room and run again, finished shards are kept"
            raise OSError(error.errno, reason) from error
        raise
    remove_folder(parts, "parts")


def _run_facts(
    prompts: Prompts | LearnedPrompts, encoder: Encoder, others: Mapping[str, Encoder], head: PreparedHead | None
) -> dict[str, Any]:
    recorded = prompts.recorded
    made = {"method": recorded.method, "settings": recorded.settings, "index": recorded.index}
    if recorded.chosen:
        made["chosen"] = recorded.chosen
    return {
        "version": version("rag-clip"),
        "encoder": asdict(encoder.fingerprint),
        "prompts": {"digest": prompts_digest(prompts), **made},
        "classes": len(prompts.labels),
        "head": dict(head.facts) if head else {},
        "others": {name: asdict(each.fingerprint) for name, each in others.items()},
    }


def prompts_digest(prompts: Prompts | LearnedPrompts) -> str:
    """Return a hash of everything that predictions depend on in prompts, as predictions record it."""
    digest = hashlib.sha256()
    if isinstance(prompts, LearnedPrompts):
        tensors = (prompts.weights, *(prompts.visual[name] for name in sorted(prompts.visual)))
        digest.update(json.dumps(prompts.labels.names).encode())
        digest.update(b"".join(each.cpu().numpy().tobytes() for each in tensors))
        return digest.hexdigest()
    for name, group in zip(prompts.labels.names, prompts.texts, strict=True):
        digest.update(json.dumps([name, [[text.text, text.weight, text.role] for text in group]]).encode())
    digest.update(b"" if prompts.recorded.average == "vectors" else prompts.recorded.average.encode())
    return digest.hexdigest()
