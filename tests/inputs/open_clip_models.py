"""Small open_clip models with random weights, written to folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from rag_clip.models.folder import CONFIG
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.towers import TwoTowers

VISION: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TEXT: dict[str, Any] = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
CLIP: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
NON_CAUSAL: dict[str, Any] = TEXT | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
MULTIMODAL = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "clip": CLIP,
    "quick gelu and layer scale": CLIP | {"quick_gelu": True, "text_cfg": TEXT | {"ls_init_value": 0.1}},
    "custom text": CLIP | {"custom_text": True},
    "custom blocks": CLIP | {"custom_text": True, "text_cfg": TEXT | {"qk_norm": True, "scale_attn": True}},
    "end token by id": CLIP | {"custom_text": True, "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407}},
    "not causal": CLIP | {"custom_text": True, "init_logit_bias": -10.0, "text_cfg": NON_CAUSAL},
    "coca": CLIP
    | {
        "custom_text": True,
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "multimodal_cfg": MULTIMODAL,
    },
}


def write_model(folder: Path, config: dict[str, Any], preprocess: dict[str, Any] | None = None) -> str:
    """Write the model of a configuration to `folder`, and return the name that loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess or {}}))
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # open_clip announces the random weights that are wanted here
        patch.setattr("logging.warning", lambda *_: None)
        model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def load_towers(spec: str, precision: str | None = None) -> TwoTowers:
    """Load a model of a text and an image tower on the CPU."""
    encoder = load_encoder(spec, device="cpu", precision=precision)
    assert isinstance(encoder, TwoTowers)
    return encoder
