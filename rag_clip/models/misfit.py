"""Whether weights fit a model, and otherwise which architecture they belong to, from the shapes of the tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

MOST_KEYS = 3
VISION = {
    "width": 768,
    "layers": 12,
    "patch_size": 16,
    "image_size": 224,
}  # open_clip's defaults, for what a configuration leaves out
TEXT = {"width": 512, "layers": 12, "context_length": 77, "vocab_size": 49408}


def describe_misfit(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], *, ignore: Sequence[str] = ()
) -> str:
    """Return a description of how `state` differs from the expected state, naming the first keys; '' where it fits.

    The shapes of the keys in `ignore` may differ.
    """
    missing = [name for name in expected if name not in state]
    further = [name for name in state if name not in expected]
    reshaped = [
        f"{name} is {list(state[name].shape)}, not {list(value.shape)}"
        for name, value in expected.items()
        if name in state and name not in ignore and state[name].shape != value.shape
    ]
    kinds = (("missing", missing), ("unknown to it", further), ("of another shape", reshaped))
    return "; ".join(f"{_count_tensors(found)} {kind} ({_first(found)})" for kind, found in kinds if found)


def likely_architectures(state: Mapping[str, torch.Tensor], configs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the open_clip model configurations in `configs` whose sizes equal those of `state`.

    Only CLIP models with open_clip's own towers are recognised; for others the list is empty.
    """
    sizes = _sizes_of_state(state)
    return [] if sizes is None else [name for name, config in configs.items() if _sizes_of_config(config) == sizes]


def _sizes_of_state(state: Mapping[str, torch.Tensor]) -> tuple[Any, ...] | None:
    plain = {name.removeprefix("text."): tuple(value.shape) for name, value in state.items()}
    try:
        vision: tuple[Any, ...]
        if "visual.layer1.0.conv1.weight" in plain:
            blocks = tuple(_count(plain, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
            vision = (2 * plain["visual.conv1.weight"][0], blocks, 32, plain["visual.attnpool.positional_embedding"][0])
        else:
            width, _, patch, _ = plain["visual.conv1.weight"]
            layers = _count(plain, r"visual\.transformer\.resblocks\.(\d+)\.")
            vision = (width, layers, patch, plain["visual.positional_embedding"][0])
        context, width = plain["positional_embedding"]
        text = (width, _count(plain, r"transformer\.resblocks\.(\d+)\."), context, plain["token_embedding.weight"][0])
        return (plain["text_projection"][1], *vision, *text)
    except (KeyError, ValueError):
        return None


def _sizes_of_config(config: Mapping[str, Any]) -> tuple[Any, ...] | None:
    vision, text = VISION | dict(config["vision_cfg"]), TEXT | dict(config["text_cfg"])
    if "timm_model_name" in vision or "hf_model_name" in text or not isinstance(vision["image_size"], int):
        return None
    layers = tuple(vision["layers"]) if isinstance(vision["layers"], list) else vision["layers"]
    patch = 32 if isinstance(layers, tuple) else vision["patch_size"]
    tokens = 1 + (vision["image_size"] // patch) ** 2
    return (
        config["embed_dim"],
        vision["width"],
        layers,
        patch,
        tokens,
        text["width"],
        text["layers"],
        text["context_length"],
        text["vocab_size"],
    )


def _count(names: Mapping[str, Any], pattern: str) -> int:
    return len({found[1] for name in names if (found := re.match(pattern, name))})


def _count_tensors(names: Sequence[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_KEYS]) + (", ..." if len(names) > MOST_KEYS else "")
