"""Classify Parquet files of images: decode, encode, match, and write every input row beside its prediction.

Features are stored shard by shard before anything is matched: a run that was cut short, or other labels with the
same `features_dir`, take up the shards that are there and decode only the rest.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pyarrow as pa

from rag_clip.classifiers.coop import learned_zero_shot
from rag_clip.classifiers.match import Scores, check_scores
from rag_clip.classifiers.prepared import PreparedHead
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Prompts
from rag_clip.display import MOST_ROWS, counted, html_table
from rag_clip.files.features import FeatureRows
from rag_clip.files.folders import make_folder, sync_folder
from rag_clip.files.learned_prompts import LearnedPrompts
from rag_clip.files.outputs import check_outputs, holding, remove_folder
from rag_clip.given import (
    AnyEncoder,
    AnyImages,
    AnyIndex,
    AnyPrompts,
    image_files,
    index_place,
    kept_with,
    scratch_output,
    to_encoder,
    to_images,
    to_prompts,
)
from rag_clip.images.decoding import Decoding
from rag_clip.images.joined import encode_by_all
from rag_clip.images.kept import keep_columns
from rag_clip.images.opening import open_image_files
from rag_clip.images.rows import first_rows
from rag_clip.models.towers import two_towers
from rag_clip.progress import Report, StageClock
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Classifier, Encoder, has_trained_bias
from rag_clip.report.tally import Predicted, Tally
from rag_clip.store import open_store
from rag_clip.store.stored_vectors import stored_vectors

from .predictions import output_schema, predict_rows, prediction_columns, write_predictions


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ClassifySummary:
    """What `classify` did: counts of rows, the names of the columns it added, and seconds per stage.

    `failed` rows have an error and no label. `decoded` rows were encoded now, `from_cache` rows had features from an
    earlier run. `predicted` says how many images each class got, and which are least sure. `seconds["decode"]` is the
    mean over the worker processes; `seconds["write"]` includes reading the rows once more.
    """

    output: Path
    rows: int
    failed: int
    decoded: int
    from_cache: int
    columns: tuple[str, ...]
    predicted: Predicted
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
    prompts: AnyPrompts,
    output: str | Path | None = None,
    encoder: AnyEncoder | None = None,
    head: PreparedHead | None = None,
    others: Mapping[str, Encoder] | None = None,
    index: AnyIndex | None = None,
    image_column: str = "image",
    limit: int | None = None,
    top_k: int = 5,
    scores: Scores = "softmax",
    features_dir: str | Path | None = None,
    decoding: Decoding = Decoding(),  # noqa: B008
    force: bool = False,
    report: Report = on_screen,
) -> ClassifySummary:
    """Write the rows of `images` to `output` with label, score, top_k_labels, top_k_scores and error beside them.

    `images` are paths, a frame, or images in memory (see `rag_clip.given`); `prompts` may be the path of their file,
    and `encoder` the name of a model, by default the one that the prompts record. Without `output` the predictions lie
    in a temporary file for as long as the summary does; its `to_polars()` reads them.

    The five columns take the prefix `predicted_` where the input has one of these names. An image that cannot be used
    has an error and no label, and the run goes on. `output` appears once it is complete; until then what is done lies
    in `output`.parts, and the same call continues from there. With `features_dir` the image features stay for other
    prompts; with `index`, the one the prompts came from, its captions are not encoded again. Learned prompts (CoOp)
    classify as they are. `head` builds the classifier from the zero-shot one; `others` are further encoders that it
    needs features by, under their names, and an image that one of them fails on has an error. `decoding` says
    how many processes decode, and how many images are encoded at once. Memory stays bounded on
    files and row groups of any size. With a `limit`, the first rows alone are classified and written.

    Scores are softmax probabilities, or with sigmoid independent ones, of texts alone by an encoder that was trained
    with a logit bias (see `match`); the labels and their order are the same.

    Raises ValueError for input, prompts or settings that cannot be used, and for an `output` that is an input or, but
    with `force`, not of an earlier call; FileNotFoundError for a missing file, OSError where a file is damaged or
    cannot be written, and BusyError where another process writes `output`.
    """
    images, prompts, index = to_images(images), to_prompts(prompts), index_place(index)
    files, clock, others = open_image_files(images, image_column=image_column), StageClock(report=report), others or {}
    files = first_rows(files, limit)
    output, let_go = scratch_output(output, "predictions.parquet")
    written = classify_outputs(output, features_dir)
    check_outputs(written, inputs=[image_files(images), index], force=force)
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    encoder = to_encoder(encoder, recorded=prompts.provenance)
    texts_alone = head is None and not isinstance(prompts, LearnedPrompts)
    check_scores(scores, trained_bias=has_trained_bias(encoder), texts_alone=texts_alone)
    columns = prediction_columns(files[0].schema.names)
    files, kept = keep_columns(files)
    with holding(written, force=force):
        with clock.stage("prompts"):
            classifier = _build(prompts, encoder, head, index, report)
        sources, missing = encode_by_all(
            files,
            features_dir or parts_of(output),
            encoder=encoder,
            others=others,
            decoding=decoding,
            clock=clock,
        )
        rows, failed = sum(file.rows for file in files), sum(cache.count_failed() for _, cache in sources)
        facts = _run_facts(prompts, encoder, others, head)
        facts |= {"image_column": files[0].image, "top_k": top_k, "scores": scores, "rows": rows, "failed": failed}
        schema, advance = output_schema(kept, columns, facts), clock.counting("write", rows)
        tally = Tally()

        def predict(features: FeatureRows) -> list[pa.Array]:
            found = predict_rows(
                features, classifier, top_k=top_k, scores=scores, batch_size=decoding.batch_size, device=encoder.device
            )
            tally.add(found[0], found[1])
            return found

        with _replacing(output, parts_of(output)) as unfinished:
            write_predictions(unfinished, sources, schema=schema, predict=predict, clock=clock, advance=advance)
    summary = ClassifySummary(
        output,
        rows,
        failed,
        missing,
        rows - missing,
        columns,
        tally.report(prompts.labels.names),
        dict(clock.seconds),
        clock.bottleneck,
    )
    return kept_with(summary, let_go)


def _build(
    prompts: Prompts | LearnedPrompts, encoder: Encoder, head: PreparedHead | None, index: str | None, report: Report
) -> Classifier:
    if isinstance(prompts, LearnedPrompts):
        classifier = learned_zero_shot(prompts, two_towers(encoder))
    else:
        known = None
        if index:
            with open_store(index) as store:
                known = stored_vectors([prompts], store, encoder=encoder.fingerprint)
        classifier = zero_shot(prompts, encoder, known=known, report=report)
    return head.build(classifier) if head else classifier


def parts_of(output: Path) -> Path:
    """Return the folder of what is done of an output that is not complete."""
    return output.with_name(f"{output.name}.parts")


def classify_outputs(output: Path, features: str | Path | None) -> list[tuple[str | Path | None, str]]:
    """Return what `classify` writes, for `check_outputs`; raises ValueError for another suffix than .parquet."""
    if output.suffix.lower() != ".parquet" and not output.is_dir():
        raise ValueError(f"the output {output} would be Parquet; give it the suffix .parquet")
    return [(output, "classify"), (parts_of(output), "parts"), (features, "features")]


@contextmanager
def _replacing(output: Path, parts: Path) -> Iterator[Path]:
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
    provenance = {key: prompts.provenance.get(key) for key in ("method", "settings", "index")}
    return {
        "version": version("rag-clip"),
        "encoder": asdict(encoder.fingerprint),
        "prompts": {"digest": _digest(prompts), **provenance},
        "classes": len(prompts.labels),
        "head": dict(head.facts) if head else {},
        "others": {name: asdict(each.fingerprint) for name, each in others.items()},
    }


def _digest(prompts: Prompts | LearnedPrompts) -> str:
    digest = hashlib.sha256()
    if isinstance(prompts, LearnedPrompts):
        digest.update(json.dumps(prompts.labels.names).encode() + prompts.weights.cpu().numpy().tobytes())
        return digest.hexdigest()
    for name, group in zip(prompts.labels.names, prompts.texts, strict=True):
        digest.update(json.dumps([name, [[text.text, text.weight, text.role] for text in group]]).encode())
    digest.update(str(prompts.provenance.get("average", "")).encode())
    return digest.hexdigest()
