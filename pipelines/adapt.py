"""Adapt an encoder to image-caption pairs or labelled images, and write it as a folder that every verb loads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rag_clip.classifiers.zero_shot import zero_shots
from rag_clip.data import Prompts
from rag_clip.demo.bpe import learn_merges, write_merges
from rag_clip.display import counted
from rag_clip.files.atomic import replacing
from rag_clip.files.folders import make_folder
from rag_clip.files.lock import lock_of, locked
from rag_clip.files.outputs import check_outputs, remove_folder
from rag_clip.given import AnyEncoder, to_encoder, to_places, to_texts
from rag_clip.images.labelled import read_classes
from rag_clip.images.opening import Images
from rag_clip.images.pair_files import open_pairs
from rag_clip.images.pixels import Pixels, decode_all, image_source, pair_source
from rag_clip.models.folder import MERGES, write_model
from rag_clip.models.towers import TwoTowers, two_towers
from rag_clip.progress import Progress
from rag_clip.progress_line import on_screen
from rag_clip.protocols import Encoder
from rag_clip.report.loss_chart import draw_losses
from rag_clip.training.adapt import FINE_TUNING, Adapted, Manner, adapt
from rag_clip.training.batches import Examples, Head
from rag_clip.training.checkpoint import Checkpoint
from rag_clip.training.loop import Schedule
from rag_clip.training.objective import Objective
from rag_clip.training.objective_list import load_objective, name_of
from rag_clip.training.objectives.nlip import decoder_of, write_captions
from rag_clip.training.towers import read_lock

from .running import Running

LEAST_WARM_UP, WARM_UP_SHARE = 20, 0.05
RATES = {"none": 1e-5, "text": 1e-3, "both": 1e-3}
BATCH = 256
CAPTIONS = "captions.parquet"


@dataclass(frozen=True, slots=True)
class Training:
    """How an encoder is adapted, whatever the objective.

    lock: none, image, text, both, or image:G, which leaves the top G groups of the image tower free.
    fresh: towers that start from new weights: none, text or both.
    vocabulary: learn a tokenizer of so many merges from the captions, for another language or alphabet; only with a
        fresh text tower. None keeps the encoder's tokenizer.
    steps, batch_size: length, and images per step; never more than there are images.
    rate: highest learning rate; None for 1e-5, or 1e-3 with fresh towers.
    warm_up: steps; None for 5 % of all, at least 20.
    least_area: least share of an image's area in a training crop.
    chunk: images or texts encoded at once, so that a large batch fits in memory; None for whole batches.
    precision: bf16 computes in bfloat16 where it helps (GPUs); weights stay float32.
    seed: of fresh weights, of the order and of crops.
    every: steps between checkpoints.
    like: for an encoder without text, such as timm:NAME: the open_clip model whose text tower is built for it, with
        fresh text.

    Raises ValueError for values out of range.
    """

    lock: str = "none"
    fresh: Literal["none", "text", "both"] = "none"
    vocabulary: int | None = None
    steps: int = 300
    batch_size: int = BATCH
    rate: float | None = None
    warm_up: int | None = None
    least_area: float = 0.9
    chunk: int | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    every: int = 50
    like: str = ""

    def __post_init__(self) -> None:
        read_lock(self.lock)
        if self.fresh not in RATES:
            raise ValueError(f"fresh is {self.fresh!r}; give none, text or both")
        if self.vocabulary is not None and (self.fresh == "none" or self.vocabulary < 1):
            raise ValueError("a vocabulary is learned for a fresh text tower; give fresh text, and at least one merge")
        self.manner  # noqa: B018
        self.schedule  # noqa: B018

    @property
    def manner(self) -> Manner:
        """Locks, crops and chunks."""
        return Manner(read_lock(self.lock), self.least_area, self.chunk)

    @property
    def schedule(self) -> Schedule:
        """Steps, batches and optimiser."""
        warm_up = max(LEAST_WARM_UP, round(WARM_UP_SHARE * self.steps)) if self.warm_up is None else self.warm_up
        return replace(
            FINE_TUNING,
            steps=self.steps,
            batch_size=self.batch_size,
            rate=self.rate or RATES[self.fresh],
            warm_up=min(warm_up, self.steps - 1),
            seed=self.seed,
            precision=self.precision,
        )


@dataclass(frozen=True, slots=True)
class AdaptSummary:
    """What `adapt_encoder` did.

    output: the folder, to be loaded as local-dir:OUTPUT.
    objective, lock, steps: as asked.
    rows, failed: rows read, and rows that could not be used.
    reasons: the first reasons, by row number.
    resumed: the step that the run went on from; 0 for a new run.
    first_loss, last_loss: mean loss of the first and the last tenth of the steps.
    masked: share of negatives that were none, having an equal caption or image.
    cut: captions longer than the context, whose end was not read.
    image_tower_moved: whether image vectors made with the parent are void.
    facts: numbers that the objective reports.
    seconds, bottleneck: per stage, and the slowest stage.
    """

    output: Path
    objective: str
    lock: str
    steps: int
    rows: int
    failed: int
    reasons: Mapping[int, str]
    resumed: int
    first_loss: float
    last_loss: float
    masked: float
    cut: int
    image_tower_moved: bool
    facts: Mapping[str, float]
    seconds: Mapping[str, float]
    bottleneck: str

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.output}: {self.objective} on {counted(self.rows - self.failed, 'image')} for "
            f"{counted(self.steps, 'step')}, loss {self.first_loss:.3f} to {self.last_loss:.3f}, {self.failed} failed"
        )

    __repr__ = __str__


@on_screen.job()
def adapt_encoder(
    images: Images | str | Path | list[str | Path],
    *,
    output: str | Path,
    encoder: AnyEncoder,
    objective: str | Objective = "clip",
    prompts: Prompts | str | Path | None = None,
    training: Training = Training(),
    pixels: str | Path | None = None,
    running: Running = Running(),  # noqa: B008
) -> AdaptSummary:
    """Train a copy of an encoder, and write it to a folder; a killed run resumes when it is started again.

    images: Parquet files, webdataset tars, lists or folders, with a column of captions, or of labels for objectives of
        labelled images; `Images` if the columns have other names.
    output: the folder, with open_clip_config.json, the weights, the tokenizer and adapt.json; with the decoder of
        `nlip` also captions.parquet, a caption for each image, for a corpus.
    encoder: an open_clip model or its name.
    objective: a name in `training.objective_list.OBJECTIVES`, or its settings.
    prompts: the classes of labelled images: their weights are the frozen head.
    training: lock, start and schedule.
    pixels: a folder that keeps decoded pixels between runs; by default they are removed at the end.
    running: processes, `force` and progress.

    Raises ValueError for unknown names, images that do not fit the objective, labels outside the prompts, an output
    that is an input or belongs to another program (without `force`); ArithmeticError where the loss is not finite,
    which keeps the last checkpoint; BusyError if another run writes `output`.
    """
    given, parent = to_places(images, "images"), to_encoder(encoder)
    objective = load_objective(objective) if isinstance(objective, str) else objective
    if objective.needs.labels and training.fresh != "none":
        raise ValueError(f"the objective {name_of(objective)} fits images to prompts; new towers do not know them")
    if not training.like:
        two_towers(parent)
    elif training.fresh != "text" or isinstance(parent, TwoTowers):
        raise ValueError("like gives a text tower to an encoder without text; give fresh text, and such an encoder")
    place, progress = Path(output), Progress(report=running.report)
    work = place.with_name(f"{place.name}.parts")
    inputs = [given.paths, prompts if isinstance(prompts, str | Path) else None]
    outputs = [(place, "model"), (work, "training"), (pixels, "pixels")]
    check_outputs(outputs, inputs=[*inputs, _folder_of(parent)], force=running.force)
    head = _head(objective, prompts, parent)
    with ExitStack() as stack:
        stack.enter_context(locked(lock_of(place), doing=f"write {place}"))
        make_folder(work)
        kept = Path(pixels) if pixels is not None else work / "pixels"
        make_folder(kept)
        stack.enter_context(locked(kept / "lock", doing=f"decode into {kept}"))
        drawn, targets = _decode(given, head, kept, parent, running, progress)
        start = _start(parent, drawn, training, work)
        examples = Examples(drawn, drawn.captions if head is None else (), targets, head, drawn.contents)
        facts = _describe(objective, training, parent, drawn)
        checkpoint = Checkpoint(work / "checkpoint.pt", training.every, json.dumps(facts, sort_keys=True))
        with progress.stage("train"), _explained(work / "checkpoint.pt", training.every):
            adapted = adapt(
                start,
                examples,
                objective,
                manner=training.manner,
                schedule=training.schedule,
                checkpoint=checkpoint,
                report=running.report,
            )
        _write(place, adapted, facts, drawn)
        remove_folder(work, "training")
    losses = adapted.losses
    tenth = max(1, len(losses) // 10)
    return AdaptSummary(
        place,
        name_of(objective),
        training.lock,
        training.steps,
        len(drawn) + len(drawn.errors),
        len(drawn.errors),
        dict(list(drawn.errors.items())[:10]),
        adapted.resumed,
        float(np.mean(losses[:tenth])),
        float(np.mean(losses[-tenth:])),
        adapted.masked,
        0 if head else _count_cut(start, drawn),
        not adapted.encoder.fingerprint.of_images,
        adapted.facts,
        dict(progress.seconds),
        progress.bottleneck,
    )


def _head(objective: Objective, prompts: Prompts | str | Path | None, encoder: Encoder) -> Head | None:
    """Return the classes of an objective that needs them; raises ValueError where prompts are missing or useless."""
    name = name_of(objective)
    if not objective.needs.labels:
        if prompts is not None:
            raise ValueError(f"the objective {name} learns from captions and has no use for prompts; leave them out")
        return None
    if prompts is None:
        raise ValueError(f"the objective {name} learns from labelled images; give the prompts of their classes")
    texts = to_texts(prompts)
    (alone,) = zero_shots([texts], encoder)
    groups = tuple(tuple(text.text for text in group) for group in texts.texts)
    return Head(texts.labels, alone.weights.float().cpu(), groups)


def _decode(
    given: Images, head: Head | None, folder: Path, encoder: Encoder, running: Running, progress: Progress
) -> tuple[Pixels, torch.Tensor | None]:
    """Decode the images, and return them with their classes if there is a head."""
    if head is None:
        sources = [pair_source(file) for file in open_pairs(given)[0]]
    else:
        files = given.open()
        numbers = read_classes(files, head.labels, given.label_column)
        sources = [image_source(file) for file in files]
    drawn = decode_all(sources, folder, preprocess=encoder.preprocess, decoding=running.decoding, progress=progress)
    return drawn, None if head is None else torch.tensor(numbers)[drawn.rows]


def _start(encoder: Encoder, drawn: Pixels, training: Training, work: Path) -> TwoTowers:
    """Return the encoder to start from, with new weights and a tokenizer of its own if these are asked for."""
    if training.fresh == "none":
        return two_towers(encoder)
    from rag_clip.models.open_clip import byte_words, fresh, with_text  # jobs are imported without open_clip
    from rag_clip.models.timm_models import VisionEncoder

    merges = None
    if training.vocabulary is not None:
        captions = [caption for each in drawn.captions for caption in each]
        if not captions:
            raise ValueError("a vocabulary is learned from captions; these images have none")
        merges = work / MERGES
        write_merges(learn_merges(captions, count=training.vocabulary, split=byte_words), merges)
    if isinstance(encoder, VisionEncoder):
        like = two_towers(to_encoder(training.like))
        return with_text(encoder, like, seed=training.seed, merges=merges)
    return fresh(two_towers(encoder), towers=training.fresh, seed=training.seed, merges=merges)


def _describe(objective: Objective, training: Training, encoder: Encoder, drawn: Pixels) -> dict[str, Any]:
    """Return what a run depends on as plain values, for adapt.json and for its checkpoint."""
    data = hashlib.sha256(drawn.contents.numpy().tobytes())
    data.update(json.dumps(drawn.captions, ensure_ascii=False).encode())
    return {
        "objective": name_of(objective),
        "settings": asdict(objective),
        "training": {name: value for name, value in asdict(training).items() if name != "every"},
        "images": len(drawn),
        "data": data.hexdigest(),
        "parent": asdict(encoder.fingerprint),
    }


@contextmanager
def _explained(checkpoint: Path, every: int) -> Iterator[None]:
    """Add to an error of numbers where the last good weights are."""
    try:
        yield
    except ArithmeticError as error:
        kept = f"the checkpoint of up to {every} steps before is kept in {checkpoint}" if checkpoint.exists() else ""
        raise ArithmeticError(f"{error}{f'; {kept}' if kept else ''}") from None


def _write(folder: Path, adapted: Adapted, facts: Mapping[str, Any], drawn: Pixels) -> None:
    shared = adapted.encoder.fingerprint.of_images
    facts = {
        **facts,
        **({"image_fingerprint": json.loads(shared)} if shared else {}),
        "masked": adapted.masked,
        "facts": dict(adapted.facts),
        "losses": [round(loss, 6) for loss in adapted.losses],
    }
    make_folder(folder)
    with replacing(folder / "loss.png") as partial:
        partial.write_bytes(draw_losses(adapted.losses, title=f"{facts['objective']}, {len(adapted.losses)} steps"))
    (folder / CAPTIONS).unlink(missing_ok=True)
    if decoder_of(adapted.loss) is not None:
        table = write_captions(adapted.loss, torch.arange(len(drawn)))
        with replacing(folder / CAPTIONS) as partial:
            pq.write_table(table.set_column(0, "row", pa.array(drawn.rows)), partial, write_page_checksum=True)
    write_model(adapted.encoder, folder, facts, match=adapted.match, kind=adapted.kind)


def _folder_of(encoder: Encoder) -> str | None:
    """Return the folder that an encoder was loaded from."""
    place = encoder.fingerprint.spec.removeprefix("local-dir:")
    return place if place != encoder.fingerprint.spec or Path(place).is_dir() else None


def _count_cut(towers: TwoTowers, drawn: Pixels) -> int:
    """Return the number of captions longer than the context."""
    from rag_clip.models.open_clip import token_lengths

    texts = list(dict.fromkeys(caption for each in drawn.captions for caption in each))
    lengths = token_lengths(towers, texts)
    return sum(length > towers.tokenizer.context_length for length in lengths)
