"""The bundled CLIP in a folder, with a matching of patches or tokens that was drawn at random."""

from __future__ import annotations

from pathlib import Path

import torch

from inputs.objectives import encoder
from rag_clip.models.folder import write_model
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.patch_match import start_match
from rag_clip.models.token_match import Reducer, TokenMatch
from rag_clip.models.towers import TwoTowers, image_projection


def patches_model(folder: Path) -> TwoTowers:
    """Write the model to `folder`, and return it as it is loaded from there."""
    match = start_match(image_projection(encoder().model.visual), hidden=8).state_dict()
    match["output"] = torch.randn(8, 128, generator=torch.Generator().manual_seed(5)) * 0.3
    write_model(encoder(), folder, {"objective": "pacl"}, match=match, kind="patches")
    loaded = load_encoder(f"local-dir:{folder}", device="cpu")
    assert isinstance(loaded, TwoTowers)
    return loaded


def tokens_model(folder: Path) -> TwoTowers:
    """Write the model with a late interaction of five tokens of an image, and return it as it is loaded from there."""
    draw = torch.Generator().manual_seed(6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        reducer = Reducer(128, 5, 4)
    match = TokenMatch(torch.randn(128, 16, generator=draw), torch.randn(128, 16, generator=draw), reducer)
    write_model(encoder(), folder, {"objective": "filip"}, match=match.state_dict(), kind="late")
    loaded = load_encoder(f"local-dir:{folder}", device="cpu")
    assert isinstance(loaded, TwoTowers)
    return loaded
