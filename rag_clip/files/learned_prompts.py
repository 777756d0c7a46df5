"""Learned prompts and their `.safetensors` files: class vectors, the context that they were made with, the encoder.

The vectors are a classifier by themselves. A context that all classes share also works with other names
(classifiers.coop). Visual prompts, where there are any, belong to these classes (classifiers.dpt).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open

from rag_clip.data import Fingerprint, LabelSet, Provenance, check_same_encoder, read_fingerprint, read_provenance
from rag_clip.files.labels import labels_from_document, labels_to_document
from rag_clip.files.regular import is_regular
from rag_clip.files.tensors import check_tensors_path, read_tensors, write_tensors

METADATA = "rag_clip.learned_prompts"
VISUAL = "visual."
Position = Literal["end", "middle", "front"]


@dataclass(frozen=True, slots=True, eq=False)
class LearnedPrompts:
    """Class vectors and the learned context around the names.

    labels: the c classes.
    weights: unit vectors of the classes, float32 [c, d].
    context: m vectors of the text tower's token width e, float32: [m, e] if all classes share them, else [c, m, e].
    position: of the name: at the end of the context, in its middle, or in front of it.
    provenance: the encoder and the settings that the prompts were learned with.
    visual: tensors of visual prompts for the image tower (models.visual_prompts), by name; {} without them.

    Raises ValueError for shapes that do not fit, and values that are not finite.
    """

    labels: LabelSet
    weights: torch.Tensor
    context: torch.Tensor
    position: Position = "end"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    visual: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.weights.ndim != 2 or len(self.weights) != count:
            raise ValueError(f"learned weights are {tuple(self.weights.shape)}; expected [c, d] with {count} classes")
        if self.context.ndim not in (2, 3) or (self.context.ndim == 3 and len(self.context) != count):
            raise ValueError(
                f"the learned context is {tuple(self.context.shape)}; expected [m, e], or [c, m, e] for {count} classes"
            )
        if self.position not in get_args(Position):
            raise ValueError(f"position {self.position!r} is unknown; choose one of {', '.join(get_args(Position))}")
        if not all(bool(each.isfinite().all()) for each in (self.weights, self.context, *self.visual.values())):
            raise ValueError("the learned prompts have values that are not finite; train them again")

    @property
    def recorded(self) -> Provenance:
        """The facts of the provenance."""
        return read_provenance(self.provenance)

    @property
    def shared(self) -> bool:
        """Whether all classes share the context, so that it can be used with other names."""
        return self.context.ndim == 2


def write_learned_prompts(prompts: LearnedPrompts, path: str | Path) -> None:
    """Write a `.safetensors` file, replacing it only once it is complete; makes the folder if it is missing.

    Raises ValueError for another suffix, and OSError if the disk is full; an old file then stays as it was.
    """
    path = Path(path)
    check_learned_path(path)
    facts = {
        **labels_to_document(prompts.labels),
        "position": prompts.position,
        "provenance": dict(prompts.provenance),
    }
    visual = {f"{VISUAL}{name}": prompts.visual[name] for name in sorted(prompts.visual)}
    tensors = {"weights": prompts.weights.float(), "context": prompts.context.float(), **visual}
    write_tensors(tensors, path, key=METADATA, facts=facts)


def read_learned_prompts(path: str | Path, *, encoder: Fingerprint | None = None) -> LearnedPrompts:
    """Read learned prompts, their tensors on the CPU.

    Raises ValueError, naming the file, if it is no such file, has values that LearnedPrompts refuses, or prompts
    learned with another encoder than `encoder`; FileNotFoundError if there is no such file.
    """
    path = Path(path)
    check_learned_path(path)
    if not is_regular(path):
        raise FileNotFoundError(f"there is no file of learned prompts {path}; learn some with the head coop")
    try:
        prompts = _read(path)
        if encoder is not None:
            check_learned_encoder(prompts, encoder)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}") from error
    return prompts


def check_learned_encoder(prompts: LearnedPrompts, encoder: Fingerprint) -> None:
    """Raise ValueError if the prompts were learned with another encoder, for which their vectors mean nothing."""
    recorded = prompts.recorded.encoder
    if not recorded:
        raise ValueError("the learned prompts do not say what encoder they are for; learn them again")
    made_with = read_fingerprint(recorded)
    check_same_encoder(made_with, encoder, what="the prompts were learned", advice="learn them again")


def _read(path: Path) -> LearnedPrompts:
    with safe_open(path, framework="pt") as file:
        visual = sorted(name for name in file.keys() if name.startswith(VISUAL))  # noqa: SIM118
    tensors, facts = read_tensors(
        path,
        key=METADATA,
        names=("weights", "context", *visual),
        foreign="is not a file of learned prompts; it needs weights, context and their metadata",
        again="learn the prompts again",
        sealed=False,  # files of 0.1.0 have no checksum
    )
    labels = labels_from_document({key: facts.get(key) for key in ("templates", "labels")})
    weights, context = (tensors[name].float() for name in ("weights", "context"))
    return LearnedPrompts(
        labels,
        weights,
        context,
        position=facts.get("position", ""),
        provenance=facts["provenance"],
        visual={name.removeprefix(VISUAL): tensors[name] for name in visual},
    )


def check_learned_path(path: Path) -> None:
    """Raise ValueError for a folder, and for another suffix than .safetensors."""
    check_tensors_path(path, what="learned prompts are", example="prompts")
