"""The objectives by name: settings, paper, and what each is good for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rag_clip.files.reading import read_toml
from rag_clip.files.settings import check_settings
from rag_clip.training.objective import Objective
from rag_clip.training.objectives.align import Align
from rag_clip.training.objectives.carft import CarFt
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.filip import Filip
from rag_clip.training.objectives.idea import Idea
from rag_clip.training.objectives.labels import Labels
from rag_clip.training.objectives.nlip import Nlip
from rag_clip.training.objectives.pacl import Pacl
from rag_clip.training.objectives.proto import Proto
from rag_clip.training.objectives.siglip import SigLip
from rag_clip.training.objectives.slip import Slip
from rag_clip.words import did_you_mean


@dataclass(frozen=True, slots=True)
class Entry:
    """An objective: its settings, its paper, and what it is good for."""

    settings: type
    paper: str
    good_for: str


OBJECTIVES: Mapping[str, Entry] = {
    "clip": Entry(Clip, "Radford et al., 2021, arXiv 2103.00020", "pairs; the plain contrastive loss"),
    "align": Entry(Align, "Jia et al., 2021, arXiv 2102.05918", "many noisy pairs; label smoothing"),
    "siglip": Entry(SigLip, "Zhai et al., 2023, arXiv 2303.15343", "pairs; independent probabilities"),
    "filip": Entry(
        Filip, "Yao et al., 2022, arXiv 2111.07783; Gu et al., 2022, arXiv 2202.06767", "pairs that differ in a detail"
    ),
    "pacl": Entry(Pacl, "Mukhoti et al., 2023, arXiv 2212.04994", "pairs, both towers locked; where a text is true"),
    "slip": Entry(Slip, "Mu et al., 2022, arXiv 2112.12750", "few pairs; views of an image agree too"),
    "proto": Entry(Proto, "Chen et al., 2023, arXiv 2206.10996", "pre-training; towers predict each other's clusters"),
    "nlip": Entry(Nlip, "Huang et al., 2023, arXiv 2212.07086", "noisy pairs; wrong captions pull less"),
    "idea": Entry(Idea, "Huang et al., 2022, arXiv 2207.05333", "poor captions; adds tags that images show"),
    "labels": Entry(Labels, "Ilharco et al., 2022, arXiv 2208.05592", "labelled images; merge the result (PAINT)"),
    "carft": Entry(CarFt, "Mao et al., 2024, arXiv 2211.16175", "labelled images in one context; others keep working"),
}


def name_of(objective: Objective) -> str:
    """Return the name of an objective's settings."""
    return next(name for name, entry in OBJECTIVES.items() if isinstance(objective, entry.settings))


def load_objective(name: str, settings: Path | None = None) -> Objective:
    """Return the settings of an objective by name, with those of a TOML file in place of defaults.

    Raises ValueError for an unknown name or setting.
    """
    if name not in OBJECTIVES:
        raise ValueError(
            f"unknown objective {name!r}; {did_you_mean(name, OBJECTIVES)}known are {', '.join(OBJECTIVES)}"
        )
    kind = OBJECTIVES[name].settings
    if settings is None:
        return cast(Objective, kind())
    try:
        return cast(Objective, check_settings(kind, read_toml(settings)))
    except ValueError as error:
        raise ValueError(f"{settings}: {error}") from error
