"""DiffusersPainter against the real diffusers, with a pipeline of a few thousand random weights made from configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rag_clip.support.diffusers_painter import PainterError
from rag_clip.support.painters import load_painter

diffusers = pytest.importorskip("diffusers", reason="needs the extra synthesis")
transformers = pytest.importorskip("transformers", reason="needs the extra synthesis")
WORDS = ("<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "kite</w>")


def tiny_pipeline(folder: Path, *, withholds: bool = False) -> Path:
    """Write a Stable Diffusion pipeline of 16 x 16 pixels; its safety checker withholds everything, or is absent."""
    torch.manual_seed(0)
    (folder / "words").mkdir(parents=True)
    (folder / "words" / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(WORDS)}))
    (folder / "words" / "merges.txt").write_text("#version: 0.2\n")
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 8, "patch_size": 4}
    checker = None
    if withholds:
        checker = diffusers.pipelines.stable_diffusion.StableDiffusionSafetyChecker(
            transformers.CLIPConfig(vision_config=vision, projection_dim=8)
        )
        with torch.no_grad():
            checker.concept_embeds_weights.fill_(-1)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4,
                                    down_block_types=["DownEncoderBlock2D"] * 2,
                                    up_block_types=["UpDecoderBlock2D"] * 2),
        text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(
            **text, vocab_size=len(WORDS), max_position_embeddings=8, bos_token_id=0, eos_token_id=1)),
        tokenizer=transformers.CLIPTokenizer(str(folder / "words" / "vocab.json"), str(folder / "words" / "merges.txt"),
                                             model_max_length=8),
        unet=diffusers.UNet2DConditionModel(sample_size=8, block_out_channels=(4, 8), layers_per_block=1,
                                            norm_num_groups=2, cross_attention_dim=8, attention_head_dim=2,
                                            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                                            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D")),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=checker,
        feature_extractor=transformers.CLIPImageProcessor(size=8, crop_size=8) if withholds else None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


def pixels(images: list[Image.Image]) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_a_pipeline_paints_each_text_from_its_own_seed(folder: Path):
    painter = load_painter(str(folder), steps=2, device="cpu")
    both = pixels(list(painter.paint(["a red kite", "a kite"], seeds=[3, 4])))
    assert both.shape == (2, 16, 16, 3)
    alone = pixels(list(painter.paint(["a kite"], seeds=[4])))
    assert np.abs(alone[0] - both[1]).max() <= 1  # of 255: another batch adds up in another order
    assert np.abs(both[0] - both[1]).max() > 1
    assert list(painter.paint([], seeds=[])) == []


def test_published_settings_are_the_default_and_recorded(folder: Path):
    painter = load_painter(str(folder), device="cpu")
    weights = painter.settings["weights"]
    assert painter.size == (16, 16)
    assert painter.settings == {
        "pipeline": "StableDiffusionPipeline",
        "scheduler": "DDIMScheduler",
        "weights": weights,
        "precision": "fp32",
        "guidance": 9.5,
        "steps": 85,
        "size": [16, 16],
    }
    chosen = load_painter(str(folder), guidance=0, steps=1, size=(24, 16), device="cpu")
    assert (chosen.settings["guidance"], chosen.settings["steps"], chosen.settings["weights"]) == (0, 1, weights)
    assert chosen.paint(["a"], seeds=[0])[0].size == (24, 16)


def test_a_safety_checker_leaves_black(tmp_path: Path):
    painter = load_painter(str(tiny_pipeline(tmp_path, withholds=True)), steps=1, device="cpu")
    assert pixels(list(painter.paint(["a red kite"], seeds=[1]))).max() == 0


def test_what_is_no_text_to_image_model_is_refused(tmp_path: Path):
    with pytest.raises(PainterError, match=r"cannot load '.*nothing' \(.*\); give a hub id, or a folder"):
        load_painter(str(tmp_path / "nothing"), device="cpu")
    unconditional = diffusers.DDPMPipeline(
        diffusers.UNet2DModel(
            sample_size=8, block_out_channels=(4,), norm_num_groups=2, layers_per_block=1, attention_head_dim=2,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
        ),
        diffusers.DDPMScheduler(),
    )  # fmt: skip
    unconditional.save_pretrained(tmp_path / "plain")
    with pytest.raises(PainterError, match="is a DDPMPipeline, which takes no text; give a text-to-image model"):
        load_painter(str(tmp_path / "plain"), device="cpu")
