"""The folder of a model: open_clip's configuration and weights, its tokenizer's merges, and how it was adapted.

`load_encoder("local-dir:FOLDER")` reads it. `match.safetensors` is a matching of patches or tokens that was learned for
these weights. `adapt.json` is written last, so a folder with it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import nn

from rag_clip.data import read_fingerprint
from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.folders import make_folder
from rag_clip.files.reading import parse_json
from rag_clip.files.regular import is_regular, open_regular
from rag_clip.files.tensors import read_tensors, write_tensors
from rag_clip.models.towers import TwoTowers

CONFIG = "open_clip_config.json"
MERGES = "bpe.txt.gz"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
ADAPTED = "adapt.json"
MATCH = "match.safetensors"
MATCH_KEY = "rag_clip.match"
KINDS = ("patches", "late")
AGAIN = "adapt the model again"


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """A matching module as it lies in a file.

    kind: "patches" (PACL) or "late" (FILIP).
    tensors: its state.
    weights: the SHA-256 of the weights of the model that it was learned for.
    facts: how it was made.
    """

    kind: str
    tensors: Mapping[str, torch.Tensor]
    weights: str
    facts: Mapping[str, Any]


def write_model(
    encoder: TwoTowers,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    match: Mapping[str, torch.Tensor] | None = None,
    kind: str = "",
) -> None:
    """Write an encoder as a folder that `load_encoder` reads, with `facts` as its adapt.json.

    match, kind: the tensors and the kind of a matching module that was learned for it, see `Match`.

    Raises OSError if the disk is full.
    """
    make_folder(folder)
    with disk_errors(folder):
        for name in (ADAPTED, MATCH):
            (folder / name).unlink(missing_ok=True)
        if encoder.merges is not None and encoder.merges.resolve() != (folder / MERGES).resolve():
            with replacing(folder / MERGES) as partial:
                shutil.copyfile(encoder.merges, partial)
        content = weights_file(encoder.model)
        with replacing(folder / WEIGHTS[0]) as partial:
            partial.write_bytes(content)
        if match:
            write_match(folder, match, kind, facts)
        facts = {**facts, "weights": hashlib.sha256(content).hexdigest()}
        for name, document in ((CONFIG, encoder.config), (ADAPTED, facts)):
            with replacing(folder / name) as partial:
                partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def weights_file(model: nn.Module) -> bytes:
    """Return the weights of a model as a `.safetensors` file, whose SHA-256 is that of its fingerprint once loaded."""
    return save({name: values.detach().cpu().contiguous() for name, values in model.state_dict().items()})


def read_adapted(folder: Path) -> dict[str, Any]:
    """Return how the model of a folder was adapted; {} if it was not, or if the file is damaged."""
    if not is_regular(folder / ADAPTED):
        return {}
    try:
        facts = parse_json((folder / ADAPTED).read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def image_identity(folder: Path, weights: str) -> str:
    """Return the identity, as JSON, of the encoder whose image vectors the model of a folder shares; '' for none.

    It counts only if `weights`, the SHA-256 of those that were loaded, is that of the weights that were adapted.
    """
    facts = read_adapted(folder)
    shared = facts.get("image_fingerprint")
    if facts.get("weights") != weights or not isinstance(shared, dict):
        return ""
    try:
        return json.dumps(read_fingerprint(shared).identity, sort_keys=True)
    except ValueError:
        return ""


def write_match(folder: Path, tensors: Mapping[str, torch.Tensor], kind: str, facts: Mapping[str, Any]) -> None:
    """Write a matching module beside the weights of `folder`, which are there already.

    Raises ValueError for an unknown kind and without weights; OSError if the disk is full.
    """
    if kind not in KINDS:
        raise ValueError(f"a matching is of kind {kind!r}; known are {', '.join(KINDS)}")
    if not is_regular(folder / WEIGHTS[0]):
        raise ValueError(f"{folder} has no {WEIGHTS[0]}; write the model first")
    with open_regular(folder / WEIGHTS[0]) as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    content = {"kind": kind, "weights": weights, "provenance": dict(facts)}
    write_tensors(dict(sorted(tensors.items())), folder / MATCH, key=MATCH_KEY, facts=content)


def read_match(folder: Path) -> Match | None:
    """Return the matching module of a model's folder, or None; raises ValueError for a damaged file."""
    path = folder / MATCH
    if not is_regular(path):
        return None
    try:
        tensors, facts = read_tensors(path, key=MATCH_KEY, foreign="is no file of `rag-clip adapt`", again=AGAIN)
        if facts.get("kind") not in KINDS or not isinstance(facts.get("weights"), str):
            raise ValueError(f"has metadata without its kind and its weights; {AGAIN}")
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"{path} {error}" if isinstance(error, ValueError) else f"{path}: {error}") from error
    return Match(facts["kind"], tensors, facts["weights"], facts["provenance"])
