"""The example for Hugging Face's pipeline in docs/export.md, run on the demo's image tower in their format."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch

import rag_clip
from inputs.folders import ROOT
from inputs.photographs import photographs
from rag_clip.models.open_clip import load_encoder

NAME = "openai/clip-vit-base-patch32"  # a folder of this name is what the example loads here


def save_tower(folder: Path) -> None:
    """Write the demo's image tower as transformers' CLIP."""
    transformers = pytest.importorskip("transformers")
    encoder = load_encoder("demo", device="cpu", precision="fp32")
    config = transformers.CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=48,
        patch_size=8,
        projection_dim=128,
        hidden_act="gelu",
    )
    theirs = {}
    for name, value in encoder.model.visual.state_dict().items():
        name = name.replace("transformer.resblocks.", "encoder.layers.").replace("attn.", "self_attn.")
        name = name.replace("ln_1", "layer_norm1").replace("ln_2", "layer_norm2")
        name = name.replace("c_fc", "fc1").replace("c_proj", "fc2")
        name = name.replace("ln_pre", "pre_layrnorm").replace("ln_post", "post_layernorm")
        name = {
            "class_embedding": "embeddings.class_embedding",
            "conv1.weight": "embeddings.patch_embedding.weight",
            "positional_embedding": "embeddings.position_embedding.weight",
        }.get(name, name)
        if "in_proj" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                theirs["vision_model." + name.replace("in_proj_", f"{letter}_proj.")] = part
        elif name == "proj":
            theirs["visual_projection.weight"] = value.T
        else:
            theirs[f"vision_model.{name}"] = value
    model = transformers.CLIPVisionModelWithProjection(config)
    left_out, unknown = model.load_state_dict({name: each.contiguous() for name, each in theirs.items()}, strict=False)
    assert ([name for name in left_out if "position_ids" not in name], unknown) == ([], [])
    model.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 48},
        crop_size={"height": 48, "width": 48},
        image_mean=list(encoder.mean),
        image_std=list(encoder.std),
    ).save_pretrained(folder)


def test_the_pipeline_of_the_example_gives_the_labels_and_scores_of_classify(tmp_path: Path) -> None:
    save_tower(tmp_path / NAME)
    image = photographs(1)[0]
    (tmp_path / "example.png").write_bytes(image)
    prompts = rag_clip.enhance(["kite", "flag", "ladder", "lantern"], encoder="demo", recipe="templates")
    rag_clip.export_classifier(prompts, output=tmp_path / "classifier.safetensors", encoder="demo")
    page = (ROOT / "docs" / "export.md").read_text()
    program = page.split("## Hugging Face's pipeline")[1].split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {"__name__": "example"}
    with chdir(tmp_path), torch.no_grad():
        exec(compile(program, "example", "exec"), found)
    (ours,) = rag_clip.classify([image], prompts=prompts, scoring=rag_clip.Scoring(top_k=3)).to_polars().to_dicts()
    theirs = found["classify"](str(tmp_path / "example.png"), top_k=3)
    assert [each["label"] for each in theirs] == ours["top_k_labels"]
    assert [each["score"] for each in theirs] == pytest.approx(ours["top_k_scores"], abs=0.02)
