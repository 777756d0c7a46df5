"""Encode on a Ray cluster: actors that keep the model and do whole shards, which they write to a shared folder.

Needs the extra `ray`. Images are read, decoded and encoded by one actor, so their bytes never enter the object store,
but for images in memory, which are put there once. A unit of a node that is lost is given to another actor.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from rag_clip.models.portable import portable
from rag_clip.protocols import Encoder

from .devices import WorkerError

MOST_LOSSES = 3  # of one unit, which then is what ends its actors


class RayActors:
    """Actors with a model each on a Ray cluster; see `protocols.Workers`.

    address: of the cluster; None for the one that is there, or else a new one on this machine.
    count: number of actors; by default one for each GPU of the cluster, or each node with a processor if it has none.
        Those for which the cluster has no room are not waited for.
    gpus: GPUs of each; by default 1, or 0 if the cluster has none.

    Inputs and outputs must have the same paths on every node; relative ones count from this working directory. Raises
    ValueError for fewer than one actor.
    """

    def __init__(self, address: str | None = None, *, count: int | None = None, gpus: float | None = None) -> None:
        if count is not None and count < 1:
            raise ValueError(f"{count} actors cannot encode; give at least one")
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        cluster: Any = ray  # partly without types
        there = cluster.cluster_resources().get("GPU", 0)
        nodes = sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in cluster.nodes())
        self._gpus = (1.0 if there else 0.0) if gpus is None else gpus
        self._count = count or max(1, int(there / self._gpus) if self._gpus else nodes)

    @property
    def count(self) -> int:
        """The number of actors."""
        return self._count

    @property
    def remote(self) -> bool:
        """Always: what they write must lie in a folder that every node sees."""
        return True

    def run(
        self, work: Callable[[Encoder, Any, Any], Any], *, encoder: Encoder, given: Any, units: Sequence[Any]
    ) -> Iterator[Any]:
        """Yield the results of all units; see `Workers.run`.

        Raises the error of a unit, and WorkerError if all actors are lost, or three by one unit.
        """
        import torch

        load, shared = portable(encoder), ray.put(given)
        kept: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}  # this loop gives lost units to others
        make: Any = ray.remote(num_cpus=1, num_gpus=self._gpus, scheduling_strategy="SPREAD", **kept)(_Actor)
        actors: list[Any] = [
            make.remote(load, torch.get_num_threads(), sys.path, Path.cwd())
            for _ in range(min(self._count, max(1, len(units))))
        ]
        free, waiting = deque[Any](), deque(enumerate(units))
        starting = {actor.start.remote(): actor for actor in actors}
        doing: dict[Any, tuple[Any, tuple[int, Any]]] = {}
        losses, reason = Counter[int](), ""
        try:
            while waiting or doing:
                while free and waiting:
                    actor, (place, unit) = free.popleft(), waiting.popleft()
                    doing[actor.do.remote(work, shared, unit)] = actor, (place, unit)
                if not doing and not starting:
                    raise WorkerError(
                        f"all actors of the cluster were lost; run again, finished shards are kept ({reason})"
                    )
                (ready,), _ = ray.wait([*doing, *starting], num_returns=1)
                if ready in starting:
                    actor = starting.pop(ready)
                    try:
                        ray.get(ready)
                    except RayActorError as error:
                        reason = _shorten(error)
                    else:
                        free.append(actor)
                    continue
                actor, (place, unit) = doing.pop(ready)
                try:
                    result = ray.get(ready)
                except RayActorError as error:
                    losses[place] += 1
                    reason = _shorten(error)
                    if losses[place] == MOST_LOSSES:
                        raise WorkerError(
                            f"{MOST_LOSSES} actors were lost at the same part ({reason}); memory may have run out. Run "
                            "again with a smaller batch size; finished shards are kept"
                        ) from error
                    waiting.append((place, unit))
                    continue
                except RayTaskError as error:
                    raise error.cause from None
                free.append(actor)
                yield result
        finally:
            for actor in actors:
                ray.kill(actor)


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[-300:]


class _Actor:
    """An actor with its encoder."""

    def __init__(self, load: Callable[[str], Encoder], threads: int, path: Sequence[str], place: Path) -> None:
        import torch

        with suppress(OSError):  # a node may lack it, where all inputs and outputs have absolute paths
            os.chdir(place)

        sys.path.extend(folder for folder in path if folder not in sys.path)  # encoders of modules beside the script
        torch.set_num_threads(threads)
        self._encoder = load("cuda" if ray.get_gpu_ids() else "cpu")

    def start(self) -> None:
        """Return once the model is loaded."""

    def do(self, work: Callable[[Encoder, Any, Any], Any], given: Any, unit: Any) -> Any:
        """Return what the work gives."""
        return work(self._encoder, given, unit)
