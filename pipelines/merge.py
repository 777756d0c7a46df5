"""Merge adapted models into the model that they were adapted from, so that it learns a task and keeps the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from rag_clip.classifiers.zero_shot import zero_shots
from rag_clip.data import Prompts
from rag_clip.display import counted
from rag_clip.files.atomic import scratch_folder
from rag_clip.files.lock import lock_of, locked
from rag_clip.files.outputs import check_outputs
from rag_clip.given import AnyEncoder, image_files, to_encoder, to_images, to_texts
from rag_clip.images.labelled import read_classes
from rag_clip.images.opening import Images
from rag_clip.images.pixels import Pixels, decode_all, image_source
from rag_clip.models.folder import ADAPTED, WEIGHTS, read_adapted, write_model
from rag_clip.models.towers import TwoTowers, two_towers
from rag_clip.progress import Progress
from rag_clip.progress_line import on_screen
from rag_clip.training.weights import (
    EVERYTHING,
    IMAGE,
    State,
    add_differences,
    check_alphas,
    check_fit,
    interpolate,
    moved_parts,
    with_weights,
)

from .running import Running

How = Literal["single", "parallel", "sequential", "whole"]
ALPHAS = tuple(round(0.05 * step, 2) for step in range(21))
Task = tuple[Images | str | Path, Prompts | str | Path]


@dataclass(frozen=True, slots=True)
class AlphaSearch:
    """Validation images that choose alpha among 0, 0.05 ... 1: the best mean of both parts' mean accuracies.

    patch: labelled images of each task that was learned, with the prompts of its classes.
    supported: the same of tasks that must keep working.

    Raises ValueError if either is empty: with the patching tasks alone, alpha would be 1 and the others lost.
    """

    patch: Sequence[Task]
    supported: Sequence[Task]

    def __post_init__(self) -> None:
        """Check the tasks."""
        if not self.patch or not self.supported:
            missing = "supported tasks, which must keep working" if self.patch else "patching tasks, which were learned"
            raise ValueError(f"alpha is chosen by both parts, and there are no {missing}; give images and prompts")


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured at an alpha: the accuracy of each task, 0 to 1, and their `score`.

    The score is the mean of the mean accuracies of both parts.
    """

    alpha: float
    patch: tuple[float, ...]
    supported: tuple[float, ...]
    score: float


@dataclass(frozen=True, slots=True)
class MergeSummary:
    """What `merge_models` did.

    output: the folder, to be loaded as local-dir:OUTPUT.
    how: single, parallel, sequential or whole.
    alphas: of each folder.
    sweep: what was measured at each alpha; () if alpha was given.
    image_tower_moved, text_tower_moved: whether vectors of images and of texts made with the model are void.
    notes: what to know about the folders and alphas.
    failed: validation images that could not be used.
    seconds, bottleneck: per stage, and the slowest stage.
    """

    output: Path
    how: How
    alphas: tuple[float, ...]
    sweep: tuple[Measured, ...]
    image_tower_moved: bool
    text_tower_moved: bool
    notes: tuple[str, ...]
    failed: int
    seconds: Mapping[str, float]
    bottleneck: str

    def __str__(self) -> str:
        """Say it in one line."""
        alphas = ", ".join(f"{alpha:g}" for alpha in self.alphas)
        return f"{self.output}: {counted(len(self.alphas), 'adapted model')} merged, {self.how}, alpha {alphas}"

    __repr__ = __str__


@dataclass(frozen=True, slots=True, eq=False)
class _Adapted:
    """The folder of an adapted model: its weights, and how it was adapted."""

    folder: Path
    state: State
    facts: Mapping[str, Any]

    @property
    def parent(self) -> str:
        """The SHA-256 of the weights that it was adapted from."""
        return str(self.facts["parent"].get("weights", ""))


@on_screen.job()
def merge_models(
    folders: str | Path | Sequence[str | Path],
    *,
    output: str | Path,
    encoder: AnyEncoder | None = None,
    alpha: float | Sequence[float] | None = None,
    search: AlphaSearch | None = None,
    how: How | None = None,
    running: Running = Running(),  # noqa: B008
) -> MergeSummary:
    """Merge adapted models into the model they come from, and write the result as a folder that every verb loads.

    folders: of adapted models.
    output: the folder to write, with adapt.json, which names parents, alphas and what was measured.
    encoder: the model that they were adapted from, in float32, or its name; by default as the first folder records it.
    alpha: how much of each folder, 0 to 1; one for all, or one each.
    search: validation images that choose one alpha for all, in the place of `alpha`.
    how: `single`, the image tower of one folder; `parallel`, the sum of what each folder changed; `sequential`, each
        adapted from the merge before it; `whole`, both towers of one folder (WiSE-FT). By default `single` or
        `parallel`. What a folder was fine-tuned on jointly is one folder.
    running: processes, batch size, `force` and progress.

    Raises ValueError for an alpha outside [0, 1], folders that were not adapted from the model or do not fit it, and an
    output that is an input or belongs to another program; BusyError if another run writes `output`.
    """
    places = [Path(each) for each in ([folders] if isinstance(folders, str | Path) else folders)]
    way, place, progress = _way(places, how), Path(output), Progress(report=running.report)
    alphas = _alphas(alpha, search, places, way)
    base = _base(encoder, places[0], _facts(places[0]))
    adapted = [_read(folder, base.device) for folder in places]
    check_outputs([(place, "model")], inputs=[places, _place_of(base), _files(search)], force=running.force)
    notes = _check(base, adapted, way)
    sweep: tuple[Measured, ...] = ()
    failed = 0
    if search is not None:
        sweep, failed = _sweep(base, adapted, way, search, running, progress)
        alphas = (best(sweep).alpha,) * len(places)
    merged = with_weights(base, _merge(base, adapted, alphas, way))
    if way == "parallel" and sum(alphas) > 1:
        notes.append(f"the alphas sum to {sum(alphas):g}; above 1 the changes may go too far, so measure the result")
    image, text = moved_parts(base.model.state_dict(), merged.model.state_dict())
    facts = _describe(base, adapted, alphas, way, sweep, moved=image)
    with locked(lock_of(place), doing=f"write {place}"), progress.stage("write"):
        write_model(merged, place, facts)
    seconds, bottleneck = dict(progress.seconds), progress.bottleneck
    return MergeSummary(place, way, alphas, sweep, image, text, tuple(notes), failed, seconds, bottleneck)


def best(sweep: Sequence[Measured]) -> Measured:
    """Return the alpha with the highest score, the smallest of equal ones."""
    return max(sweep, key=lambda each: (round(each.score, 9), -each.alpha))


def _way(folders: Sequence[Path], how: How | None) -> How:
    if not folders:
        raise ValueError("there is nothing to merge; give a folder of `rag-clip adapt`")
    if how is None:
        return "single" if len(folders) == 1 else "parallel"
    if how in ("single", "whole") and len(folders) > 1:
        raise ValueError(f"`{how}` merges one folder, and there are {len(folders)}; merge them parallel or sequential")
    return how


def _alphas(
    alpha: float | Sequence[float] | None, search: AlphaSearch | None, folders: Sequence[Path], how: How
) -> tuple[float, ...]:
    """Return an alpha for each folder; () if they are to be searched."""
    if (alpha is None) == (search is None):
        raise ValueError("give either alpha, or validation images of patching and supported tasks that choose it")
    if alpha is None:
        if how == "sequential" and len(folders) > 1:
            raise ValueError(
                "each of several sequential folders was adapted from a merge whose alpha is settled; give their "
                "alphas, or choose the last by merging its folder alone into the model it was adapted from"
            )
        return ()
    given = [alpha] if isinstance(alpha, int | float) else list(alpha)
    check_alphas(given)
    if len(given) not in (1, len(folders)):
        raise ValueError(f"there are {len(given)} alphas for {counted(len(folders), 'folder')}; give one, or one each")
    return tuple(map(float, given * len(folders) if len(given) == 1 else given))


def _facts(folder: Path) -> dict[str, Any]:
    """Return how the model of a folder was adapted; raises ValueError for any other folder."""
    facts = read_adapted(folder)
    if not isinstance(facts.get("parent"), dict) or not (folder / WEIGHTS[0]).is_file():
        raise ValueError(f"{folder} has no adapted model (weights and {ADAPTED}); name a folder of `rag-clip adapt`")
    return facts


def _read(folder: Path, device: torch.device) -> _Adapted:
    """Read the folder of an adapted model; raises ValueError for any other, and for weights that were changed."""
    facts, weights = _facts(folder), folder / WEIGHTS[0]
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if facts.get("weights") != digest:
        raise ValueError(f"the weights in {folder} are not those that its {ADAPTED} records; adapt the model again")
    state = load_file(weights, device=str(device))
    bad = [name for name, values in state.items() if not values.isfinite().all()]
    if bad:
        raise ValueError(f"{weights} has values that are not finite in {bad[0]!r}; adapt the model again")
    return _Adapted(folder, state, facts)


def _base(encoder: AnyEncoder | None, folder: Path, facts: Mapping[str, Any]) -> TwoTowers:
    """Return the model to merge into, in float32: by default the one that the `facts` of a folder record."""
    if encoder is None or isinstance(encoder, str):
        from rag_clip.models.open_clip import load_encoder

        spec = encoder or str(facts["parent"].get("spec", ""))
        if not spec:
            raise ValueError(f"{folder} does not record the name of its model; give it, such as demo")
        encoder = load_encoder(spec, precision="fp32")
    base = two_towers(to_encoder(encoder))
    if base.fingerprint.precision != "fp32":
        found = base.fingerprint.precision
        raise ValueError(f"weights are merged in float32, and {base.name!r} is in {found}; load it with precision fp32")
    return base


def _place_of(base: TwoTowers) -> str | None:
    """Return the folder or file that a model was loaded from, if it has one."""
    spec = base.fingerprint.spec
    return spec.removeprefix("local-dir:") if spec.startswith("local-dir:") else spec if Path(spec).exists() else None


def _files(search: AlphaSearch | None) -> list[str | Path]:
    """Return the files that a search reads."""
    tasks = [] if search is None else [*search.patch, *search.supported]
    prompts = [given for _, given in tasks if isinstance(given, str | Path)]
    return [*prompts, *(path for images, _ in tasks for path in image_files(to_images(images)))]


def _check(base: TwoTowers, adapted: Sequence[_Adapted], how: How) -> list[str]:
    """Return what to know about the folders; raises ValueError for those that do not fit the model."""
    start, notes = base.model.state_dict(), []
    for each in adapted:
        try:
            check_fit(start, each.state)
        except ValueError as error:
            raise ValueError(f"{each.folder} does not fit the model {base.name}: {error}") from None
        if how != "sequential":
            _check_parent(base, each)
        image, text = moved_parts(start, each.state)
        if not image and how != "whole":
            raise ValueError(
                f"the image tower of {each.folder} is that of the model, so there is nothing to merge; merge both "
                "towers with how `whole`"
            )
        if text and how != "whole":
            notes.append(f"the text tower of {each.folder} moved too; it stays that of the model (`whole` merges it)")
        if list(each.folder.glob("match.*")):
            notes.append(f"the matching module of {each.folder} is not merged")
    return notes


def _check_parent(base: TwoTowers, each: _Adapted) -> None:
    if each.parent != base.fingerprint.weights:
        raise ValueError(
            f"{each.folder} was adapted from other weights ({each.parent[:12] or 'not recorded'}) than those of "
            f"{base.name} ({base.fingerprint.weights[:12]}); merge it into the model that it was adapted from"
        )


def _merge(base: TwoTowers, adapted: Sequence[_Adapted], alphas: Sequence[float], how: How) -> State:
    """Return the merged weights."""
    start: State = base.model.state_dict()
    if how != "sequential":
        return add_differences(
            start, [each.state for each in adapted], alphas, parts=EVERYTHING if how == "whole" else IMAGE
        )
    before = base
    for each, alpha in zip(adapted, alphas, strict=True):
        _check_parent(before, each)
        start = interpolate(start, each.state, alpha)
        before = with_weights(base, start)
    return start


@dataclass(frozen=True, slots=True, eq=False)
class _Validation:
    """A task's decoded images, their classes int64 [n], and the prompts of the classes."""

    pixels: Pixels
    targets: torch.Tensor
    prompts: Prompts

    def accuracy(self, encoder: TwoTowers, batch_size: int) -> float:
        """Return the share of images that the encoder classifies rightly."""
        (head,) = zero_shots([self.prompts], encoder, allow_other_encoder=True)
        right = 0
        for rows in torch.split(torch.arange(len(self.pixels)), batch_size):
            with torch.no_grad():
                logits = head(encoder.encode_pixels(self.pixels(rows)))  # [b, c]
            right += int((logits.argmax(1).cpu() == self.targets[rows]).sum())
        return right / len(self.pixels)


def _sweep(
    base: TwoTowers,
    adapted: Sequence[_Adapted],
    how: How,
    search: AlphaSearch,
    running: Running,
    progress: Progress,
) -> tuple[tuple[Measured, ...], int]:
    """Return what every alpha gives on the validation images, and how many of these could not be used."""
    with _decoded([*search.patch, *search.supported], base, running, progress) as tasks:
        total = len(ALPHAS) * sum(len(task.pixels) for task in tasks)
        advance = progress.counting("measure", total, unit="images")
        measured = []
        for alpha in ALPHAS:
            with progress.stage("measure"):
                merged = with_weights(base, _merge(base, adapted, [alpha] * len(adapted), how))
                found = []
                for task in tasks:
                    found.append(task.accuracy(merged, running.batch_size))
                    advance(len(task.pixels))
            patch, supported = found[: len(search.patch)], found[len(search.patch) :]
            score = (sum(patch) / len(patch) + sum(supported) / len(supported)) / 2
            measured.append(Measured(alpha, tuple(patch), tuple(supported), score))
        return tuple(measured), sum(len(task.pixels.errors) for task in tasks)


@contextmanager
def _decoded(
    tasks: Sequence[Task], base: TwoTowers, running: Running, progress: Progress
) -> Iterator[list[_Validation]]:
    """Decode the images of every task once, for all alphas."""
    read = []
    for images, given in tasks:
        prompts, opened = to_texts(given), to_images(images)
        zero_shots([prompts], base)  # refuses prompts of another encoder before anything is decoded
        files = opened.open()
        read.append((files, torch.tensor(read_classes(files, prompts.labels, opened.label_column)), prompts))
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        decoded = []
        for files, targets, prompts in read:
            sources = [image_source(file) for file in files]
            pixels = decode_all(
                sources, folder, preprocess=base.preprocess, decoding=running.decoding, progress=progress
            )
            decoded.append(_Validation(pixels, targets[pixels.rows], prompts))
        yield decoded


def _describe(
    base: TwoTowers,
    adapted: Sequence[_Adapted],
    alphas: Sequence[float],
    how: How,
    sweep: Sequence[Measured],
    *,
    moved: bool,
) -> dict[str, Any]:
    """Return the adapt.json of a merge."""
    parents = [
        {
            "folder": each.folder.name,
            "weights": each.facts["weights"],
            "objective": each.facts.get("objective", ""),
            "alpha": alpha,
        }
        for each, alpha in zip(adapted, alphas, strict=True)
    ]
    return {
        "objective": "merge",
        "how": how,
        "parent": asdict(base.fingerprint),
        "merged": parents,
        "sweep": [asdict(each) for each in sweep],
        **({} if moved else {"image_fingerprint": base.fingerprint.image_part.identity}),
    }
