"""Heat maps of classes: the cosines of the patches with the class, for encoders that have patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from inputs.matched_model import patches_model
from inputs.objectives import encoder, pixels
from rag_clip.classifiers.patch_maps import heat_map
from rag_clip.models.open_clip import load_encoder
from rag_clip.testing import ToyEncoder


def test_a_heat_map_has_the_cosines_of_the_patches(tmp_path: Path) -> None:
    shown = pixels(torch.arange(1))
    picture = Image.fromarray(shown[0].permute(1, 2, 0).numpy())
    weights = encoder().encode_text(["a photo of a boat"])[0]
    features = encoder().encode_pixels(shown, patches=True)
    assert features.patches is not None
    raw = heat_map(picture, "boat", weights, encoder())
    assert raw is not None
    assert (raw.label, raw.learned) == ("boat", False)
    assert np.allclose(raw.values.numpy(), (features.patches[0] @ weights).view(6, 6).numpy(), atol=1e-5)
    learned = heat_map(picture, "boat", weights, patches_model(tmp_path))
    assert learned is not None
    assert learned.learned
    assert not torch.allclose(learned.values, raw.values)


def test_an_encoder_without_patches_has_no_heat_map() -> None:
    picture = Image.new("RGB", (8, 8))
    assert heat_map(picture, "boat", torch.ones(3), ToyEncoder()) is None
    assert heat_map(picture, "boat", torch.ones(64), load_encoder("demo:second", device="cpu")) is None
