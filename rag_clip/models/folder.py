"""The folder of a model: open_clip's configuration and weights, its tokenizer's merges, and how it was adapted.

`load_encoder("local-dir:FOLDER")` reads it. `adapt.json` is written last, so a folder with it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.folders import make_folder
from rag_clip.files.reading import parse_json
from rag_clip.files.regular import is_regular
from rag_clip.models.towers import TwoTowers

CONFIG = "open_clip_config.json"
MERGES = "bpe.txt.gz"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
ADAPTED = "adapt.json"


def write_model(encoder: TwoTowers, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write an encoder as a folder that `load_encoder` reads, with `facts` as its adapt.json.

    Raises OSError if the disk is full.
    """
    make_folder(folder)
    with disk_errors(folder):
        (folder / ADAPTED).unlink(missing_ok=True)
        if encoder.merges is not None and encoder.merges.resolve() != (folder / MERGES).resolve():
            with replacing(folder / MERGES) as partial:
                shutil.copyfile(encoder.merges, partial)
        state = {name: values.detach().cpu().contiguous() for name, values in encoder.model.state_dict().items()}
        with replacing(folder / WEIGHTS[0]) as partial:
            save_file(state, partial)
        for name, document in ((CONFIG, encoder.config), (ADAPTED, facts)):
            with replacing(folder / name) as partial:
                partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_adapted(folder: Path) -> dict[str, Any]:
    """Return how the model of a folder was adapted; {} if it was not, or if the file is damaged."""
    if not is_regular(folder / ADAPTED):
        return {}
    try:
        facts = parse_json((folder / ADAPTED).read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def image_identity(folder: Path) -> str:
    """Return the identity, as JSON, of the encoder whose image vectors the model of a folder shares; '' for none.

    It counts only if the weights are those that were adapted: adapt.json records their SHA-256.
    """
    facts = read_adapted(folder)
    shared = facts.get("image_fingerprint")
    names = ("model", "pretrained", "weights", "preprocessing", "activation", "resampler", "precision")
    if not isinstance(shared, dict) or not set(shared) <= set(names):
        return ""
    if not all(isinstance(value, str) for value in shared.values()):
        return ""
    return json.dumps(shared, sort_keys=True)
