"""Runs in an open world: a third of the classes is held out, and their images are to be detected (see open_world)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rag_clip.display import counted
from rag_clip.evaluation.rival_names import Candidates
from rag_clip.evaluation.runs import Run
from rag_clip.evaluation.settings import HeldOutFacts, RunSettings
from rag_clip.evaluation.tiers import with_corpus
from rag_clip.files.identity import hash_facts

DRAWS = 10
HELD_OUT = 3  # one class in so many
BOUNDS = "the mean over the draws of held-out classes -/+ their sample standard deviation, within its range"


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run of the texts of `alone` in an open world, with the names of other things; else as a Run."""

    name: str
    tier: str
    key: str
    settings: RunSettings
    alone: Run
    names: Candidates


def open_run(run: Run, names: Candidates) -> OpenRun:
    """Return the run in which a third of the classes is held out.

    Raises ValueError for fewer than three classes.
    """
    classes = run.settings.task.classes
    if classes < HELD_OUT:
        raise ValueError(f"a third of {counted(classes, 'class')} cannot be held out; give three or more, or no --open")
    settings = replace(
        run.settings,
        held_out=HeldOutFacts(names.place, len(names.names), DRAWS, classes // HELD_OUT),
        tuned="Nothing was tuned. The labels of the images say only which of them are of held-out classes.",
        low_high=BOUNDS,
    )
    key = hash_facts(["open world", run.key, names.digest, DRAWS, HELD_OUT])
    return OpenRun(f"{run.name} + open", with_corpus(run.tier), key, settings, run, names)
