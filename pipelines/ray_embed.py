"""The embed stage on a Ray cluster that is there already: the same shards and manifests, made by one model per GPU.

Needs the extra `ray`. Ray Data keeps the models loaded and hands them parts of the corpus; all else is `embed_captions`
with a part, so a run may be killed, and may go on with Ray, without it, or on another number of machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import ray
import ray.data

from rag_clip.captions.shards import SHARD_ROWS
from rag_clip.captions.sources.columns import Columns
from rag_clip.corpus.cleaning import CleaningSettings, load_cleaning
from rag_clip.progress import Progress, Report, StageClock, silent
from rag_clip.protocols import Encoder

from .embed import EmbedSummary, embed_captions

PARTS_PER_ACTOR = 4


def embed_on_ray(
    paths: Sequence[str | Path],
    *,
    shards: str | Path,
    load: Callable[[], Encoder],
    actors: int,
    gpus: float = 1.0,
    columns: Columns | None = None,
    cleaning: CleaningSettings | None = None,
    shard_rows: int = SHARD_ROWS,
    retry_failed: bool = False,
    report: Report = silent,
) -> EmbedSummary:
    """Embed captions as `embed_captions` does, with `actors` models of `gpus` GPUs each; connects to Ray where needed.

    `load` makes the encoder on an actor, `functools.partial(load_encoder, "ViT-B-32:openai")` for one. `paths` and the
    folder `shards` must be the same for every node. Every part reads the files of the corpus, skipping what is not
    its own. Raises what `embed_captions` raises, inside a RayTaskError.
    """
    if actors < 1:
        raise ValueError(f"{actors} actors cannot embed; give at least one")
    count = actors * PARTS_PER_ACTOR
    settings = {
        "paths": [str(path) for path in paths],
        "shards": str(shards),
        "columns": columns,
        "shard_rows": shard_rows,
        "cleaning": cleaning or load_cleaning(),
        "retry_failed": retry_failed,
    }
    parts = ray.data.from_items([{"part": part} for part in range(count)], override_num_blocks=count)
    done = parts.map_batches(
        _PartEmbedder,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_gpus=gpus or None,
        fn_constructor_args=(load, count, settings),
    )
    found: list[EmbedSummary] = []
    for row in done.iter_rows():
        found.append(row["summary"])
        report(Progress("embed", len(found), count, "parts"))
    return _add_up(found)


class _PartEmbedder:
    """Holds the model of one actor."""

    def __init__(self, load: Callable[[], Encoder], count: int, settings: dict[str, Any]) -> None:
        self._encoder, self._count, self._settings = load(), count, settings

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        parts = [(int(part), self._count) for part in batch["part"]]
        return {"summary": [embed_captions(encoder=self._encoder, part=part, **self._settings) for part in parts]}


def _add_up(summaries: Sequence[EmbedSummary]) -> EmbedSummary:
    """Join the summaries of all parts; seconds are those of all actors together."""
    clock, dropped = StageClock(), Counter[str]()
    for summary in summaries:
        dropped.update(summary.dropped)
        for name, seconds in summary.seconds.items():
            clock.add(name, seconds)
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
        seconds=dict(clock.seconds),
        bottleneck=clock.bottleneck,
        **sums,
    )
