"""Measure an encoder by image-text retrieval on pairs: recall at 1, 5 and 10 in both directions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.nn.functional import normalize

from rag_clip.display import counted
from rag_clip.files.atomic import scratch_folder
from rag_clip.files.lock import locked
from rag_clip.files.measures import write_measures
from rag_clip.files.outputs import holding
from rag_clip.files.reading import read_arrays
from rag_clip.files.shards import Shards
from rag_clip.given import AnyEncoder, to_encoder, to_places
from rag_clip.images.opening import Images
from rag_clip.images.pair_files import open_pairs
from rag_clip.images.shards import unit_rows
from rag_clip.metrics.retrieval import retrieval
from rag_clip.progress import Progress
from rag_clip.progress_line import on_screen

from .images import embed_files
from .running import Running

RANKS = (1, 5, 10)
DRAWS = 2000
CAPTION_NAMES = ("caption_feature", "caption_features", "text", "captions", "caption")
FORMAT = b"rag_clip.retrieval"


@dataclass(frozen=True, slots=True)
class Recall:
    """A recall in percent, with its 95 % bootstrap interval over queries.

    direction: "image to text" or "text to image".
    k: the rank.
    """

    direction: str
    k: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RetrievalSummary:
    """What `evaluate_retrieval` measured.

    output: the Parquet file, a row per recall; None without one.
    images, captions: how many were ranked.
    failed: rows that could not be used.
    recalls: of both directions.
    mean_recall: the mean of all recalls.
    seconds: per stage.
    """

    output: Path | None
    images: int
    captions: int
    failed: int
    recalls: tuple[Recall, ...]
    mean_recall: float
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"mean recall {self.mean_recall:.1f} % over {counted(self.images, 'image')} and "
            f"{counted(self.captions, 'caption')}, {self.failed} failed"
        )

    __repr__ = __str__


@on_screen.job()
def evaluate_retrieval(
    pairs: Images | str | Path | Sequence[str | Path],
    *,
    encoder: AnyEncoder | None = None,
    output: str | Path | None = None,
    shards: str | Path | None = None,
    running: Running = Running(),  # noqa: B008
) -> RetrievalSummary:
    """Rank all captions for each image, and all images for each caption.

    pairs: Parquet files, tars, lists or folders of images with one or several captions; or one .npz file of features:
        `image` [n, d], `caption_feature` [t, d] and, if an image has several, `owner` int64 [t].
    encoder: an encoder or the name of a model; not needed for features.
    output: a Parquet file with a row per recall.
    shards: a folder that keeps the embedded rows, as of `index_images`; by default a temporary one.
    running: processes, batch size, `force` and progress.

    Images with equal bytes are one image with the captions of all. Raises ValueError for pairs and features that cannot
    be used, and for an `output` that is an input or (without `force`) another program's file.
    """
    given, progress = to_places(pairs, "pairs"), Progress(report=running.report)
    place = None if output is None else Path(output)
    paths = [given.paths] if isinstance(given.paths, str | Path) else list(given.paths)
    with ExitStack() as stack:
        stack.enter_context(
            holding([(place, "evaluate"), (shards, "shards")], inputs=[given.paths], force=running.force)
        )
        if len(paths) == 1 and str(paths[0]).lower().endswith(".npz"):
            images, captions, owners, failed = *_read_features(Path(paths[0])), 0
        else:
            if encoder is None:
                raise ValueError("images and captions must be encoded; name a model")
            folder = Path(shards) if shards is not None else stack.enter_context(scratch_folder())
            images, captions, owners, failed = _encode(given, folder, encoder, running, progress)
        with progress.stage("rank"):
            found = retrieval(images, captions, owners, ks=RANKS)
        recalls = [_recall("image to text", k, found.images[k]) for k in RANKS]
        recalls += [_recall("text to image", k, found.captions[k]) for k in RANKS]
        if place is not None:
            facts = {"images": len(images), "captions": len(captions), "failed": failed}
            write_measures(place, list(map(asdict, recalls)), kind=FORMAT, facts=facts)
    mean = 100 * found.mean_recall
    return RetrievalSummary(place, len(images), len(captions), failed, tuple(recalls), mean, dict(progress.seconds))


def _read_features(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    arrays = read_arrays(path)
    name = next((name for name in CAPTION_NAMES if getattr(arrays.get(name), "ndim", 0) == 2), None)
    if name is None or getattr(arrays.get("image"), "ndim", 0) != 2:
        raise ValueError(f"{path} has {', '.join(arrays)}; give features `image` [n, d] and `caption_feature` [t, d]")
    images, captions = (torch.from_numpy(np.asarray(arrays[each], np.float32)) for each in ("image", name))
    owners = torch.from_numpy(np.asarray(arrays.get("owner", np.arange(len(captions))), np.int64))
    return normalize(images, dim=1), normalize(captions, dim=1), owners


def _encode(
    given: Images, folder: Path, encoder: AnyEncoder, running: Running, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Embed pairs, and return images [n, d], captions [t, d], the image of each caption, and the rows that failed."""
    loaded = to_encoder(encoder)
    files, columns = open_pairs(given)
    settings = json.dumps([asdict(columns), str(given.root)])
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", doing=f"embed into {folder}"):
        Shards(folder, "pairs").sweep()
        parts, _ = embed_files(files, folder, settings, encoder=loaded, decoding=running.decoding, progress=progress)
        tables = [table for part in parts for table in part.read(["sha256", "vector_image", "vector_text", "error"])]
    table = pa.concat_tables(tables)
    good = table.filter(pc.is_null(table["error"]))
    if not len(good):
        raise ValueError(f"none of {counted(len(table), 'row')} can be used; give images with captions")
    numbers: dict[str, int] = {}
    owners = [numbers.setdefault(digest, len(numbers)) for digest in good["sha256"].to_pylist()]
    first = list(dict(reversed([(owner, row) for row, owner in enumerate(owners)])).items())
    rows = [row for _, row in sorted(first)]
    images, captions = (torch.from_numpy(unit_rows(good[name], loaded.dim)) for name in ("vector_image", "vector_text"))
    return images[rows], captions, torch.tensor(owners), len(table) - len(good)


def _recall(direction: str, k: int, found: np.ndarray) -> Recall:
    draws = np.random.default_rng(0).choice(found, (DRAWS, len(found))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Recall(direction, k, 100 * float(found.mean()), 100 * float(low), 100 * float(high))
