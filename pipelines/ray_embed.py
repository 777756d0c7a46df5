"""The embed stage on an existing Ray cluster: the same shards and manifests, made by one model per GPU.

Needs the extra `ray`. Ray Data keeps the models loaded and gives them parts of the corpus to embed with
`embed_captions`; an interrupted run continues with Ray, without it, or on another number of machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import ray
import ray.data

from rag_clip.captions.shards import ShardFolder, to_shard_folder
from rag_clip.captions.sources.columns import Columns
from rag_clip.corpus.cleaning import CleaningSettings, load_cleaning
from rag_clip.progress import Progress, ProgressEvent, Report, silent
from rag_clip.protocols import Encoder

from .embed import EmbedSummary, embed_captions

PARTS_PER_ACTOR = 4


@dataclass(frozen=True, slots=True)
class Actors:
    """The models that embed at the same time: `count` actors with `gpus` GPUs each.

    `load` makes the encoder on an actor, for example `functools.partial(load_encoder, "ViT-B-32:openai")`. Raises
    ValueError for fewer than one actor.
    """

    load: Callable[[], Encoder]
    count: int
    gpus: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.count < 1:
            raise ValueError(f"{self.count} actors cannot embed; give at least one")


def embed_on_ray(
    paths: Sequence[str | Path],
    *,
    shards: ShardFolder | str | Path,
    actors: Actors,
    columns: Columns | None = None,
    cleaning: CleaningSettings | None = None,
    report: Report = silent,
) -> EmbedSummary:
    """Embed captions as `embed_captions` does, with a model on each of the `actors`; connects to Ray if needed.

    `paths` and the folder of `shards` must be the same on every node. Every part reads all files of the corpus, and
    skips the rows of other parts. Raises what `embed_captions` raises, inside a RayTaskError, and ValueError for
    a part of the shards.
    """
    folder, count = to_shard_folder(shards), actors.count * PARTS_PER_ACTOR
    if folder.part != (0, 1):
        raise ValueError(f"the actors embed all parts of the shards; leave out the part {folder.part}")
    settings = {
        "paths": [str(path) for path in paths],
        "shards": replace(folder, path=str(folder.place)),
        "columns": columns,
        "cleaning": cleaning or load_cleaning(),
    }
    parts = ray.data.from_items([{"part": part} for part in range(count)], override_num_blocks=count)
    done = parts.map_batches(
        _PartEmbedder,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors.count),
        num_gpus=actors.gpus or None,
        fn_constructor_args=(actors.load, count, settings),
    )
    found: list[EmbedSummary] = []
    for row in done.iter_rows():
        found.append(row["summary"])
        report(ProgressEvent("embed", len(found), count, "parts"))
    return _add_up(found)


class _PartEmbedder:
    """An actor with its model."""

    def __init__(self, load: Callable[[], Encoder], count: int, settings: dict[str, Any]) -> None:
        self._encoder, self._count, self._settings = load(), count, settings

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        whole = self._settings["shards"]
        parts = [replace(whole, part=(int(part), self._count)) for part in batch["part"]]
        return {"summary": [embed_captions(encoder=self._encoder, **{**self._settings, "shards": p}) for p in parts]}


def _add_up(summaries: Sequence[EmbedSummary]) -> EmbedSummary:
    """Return the sum of the summaries of all parts; seconds are summed over the actors."""
    progress, dropped = Progress(), Counter[str]()
    for summary in summaries:
        dropped.update(summary.dropped)
        for name, seconds in summary.seconds.items():
            progress.add(name, seconds)
    sums = {
        field.name: sum(getattr(summary, field.name) for summary in summaries)
        for field in fields(EmbedSummary)
        if field.type == "int"
    }
    return EmbedSummary(
        shards=summaries[0].shards,
        keys=tuple(sorted(key for summary in summaries for key in summary.keys)),
        dropped=dict(dropped),
        failures=tuple(reason for summary in summaries for reason in summary.failures),
        seconds=dict(progress.seconds),
        bottleneck=progress.bottleneck,
        **sums,
    )
