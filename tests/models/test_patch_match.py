"""PACL's matching of patches and texts: numbers by hand, limits, and the file that it is kept in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from inputs.objectives import encoder
from rag_clip.models import patch_match as module
from rag_clip.models.folder import MATCH, read_match, write_match, write_model
from rag_clip.models.learned_match import patch_match
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.patch_match import PatchMatch, compare, start_match
from rag_clip.models.towers import TwoTowers, image_projection

V = normalize(torch.tensor([[[1.0, 0], [0, 1]], [[1, 1], [-1, 0]]], dtype=torch.float64), dim=-1)
TEXTS = torch.eye(2, dtype=torch.float64)


def test_every_image_is_pooled_for_every_text() -> None:
    wanted = torch.tensor([[0.938508, 0.938508], [0.596644, 0.957113]], dtype=torch.float64)
    assert torch.allclose(compare(V, TEXTS, 1.0), wanted, atol=1e-6)


def test_one_image_has_its_numbers_by_hand() -> None:
    patches = normalize(torch.tensor([[[1.0, 0], [0, 1], [1, 1]]], dtype=torch.float64), dim=-1)
    assert compare(patches, TEXTS[:1], 1.0).item() == pytest.approx(0.862703, abs=1e-6)
    assert compare(patches, TEXTS[:1], 10.0).item() == pytest.approx(0.999336, abs=1e-6)


def test_one_patch_is_compared_as_it_is() -> None:
    patches, texts = torch.randn(3, 1, 5, dtype=torch.float64), normalize(torch.randn(4, 5, dtype=torch.float64))
    assert torch.allclose(compare(patches, texts, 10.0), normalize(patches[:, 0]) @ texts.T)


def test_the_order_of_patches_does_not_matter() -> None:
    patches, texts = torch.randn(3, 7, 5, dtype=torch.float64), normalize(torch.randn(4, 5, dtype=torch.float64))
    assert torch.allclose(compare(patches, texts, 10.0), compare(patches[:, torch.randperm(7)], texts, 10.0))


def test_blocks_of_texts_give_the_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = normalize(torch.randn(5, 4, dtype=torch.float64))
    patches = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    whole = compare(patches, texts, 10.0)
    whole.square().sum().backward()
    wanted = patches.grad
    assert wanted is not None
    patches.grad = None
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 2 * 3 * (6 + 4))
    parts = compare(patches, texts, 10.0)
    parts.square().sum().backward()
    assert torch.allclose(parts, whole)
    assert patches.grad is not None
    assert torch.allclose(patches.grad, wanted)
    with torch.no_grad():
        assert torch.allclose(compare(patches, texts, 10.0), whole)


def test_values_are_those_of_the_equation() -> None:
    draw = np.random.default_rng(0)
    tokens, first, second, third = (draw.normal(size=size) for size in ((2, 3, 5), (5, 4), (5, 6), (6, 4)))
    texts = draw.normal(size=(3, 4))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    wanted = np.zeros((2, 3))
    for image in range(2):
        v = tokens[image] @ first + np.maximum(tokens[image] @ second, 0) @ third
        unit = v / np.linalg.norm(v, axis=1, keepdims=True)
        for text in range(3):
            weights = np.exp(4 * unit @ texts[text])
            pooled = (weights / weights.sum()) @ v
            wanted[image, text] = pooled @ texts[text] / np.linalg.norm(pooled)
    matrices = [torch.from_numpy(each) for each in (first, second, third)]
    match = PatchMatch(matrices[0], matrices[1], matrices[2], 4.0)
    assert np.allclose(match(torch.from_numpy(tokens), torch.from_numpy(texts)).detach().numpy(), wanted)
    maps = match.maps(torch.from_numpy(tokens), torch.from_numpy(texts))
    assert np.allclose(maps[1, :, 2].detach().numpy(), unit @ texts[2])


def test_an_untrained_match_has_the_projected_tokens() -> None:
    match = start_match(image_projection(encoder().model.visual))
    pixels = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    features = encoder().encode_pixels(pixels, patches=True)
    assert features.patches is not None
    texts = encoder().encode_text(["a boat", "a mill"])
    maps = match.maps(encoder().patch_tokens(pixels), texts)
    assert torch.allclose(maps, features.patches @ texts.T, atol=1e-5)


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[D, d\], \[D, h\] and \[h, d\]"):
        PatchMatch(torch.zeros(5, 4), torch.zeros(5, 6), torch.zeros(5, 4))


def saved(folder: Path) -> TwoTowers:
    match = start_match(image_projection(encoder().model.visual), hidden=8, beta=3.0)
    write_model(encoder(), folder, {"objective": "pacl"}, match=match.state_dict(), kind="patches")
    loaded = load_encoder(f"local-dir:{folder}", device="cpu")
    assert isinstance(loaded, TwoTowers)
    return loaded


def test_a_match_is_read_with_its_model(tmp_path: Path) -> None:
    loaded = patch_match(saved(tmp_path))
    assert loaded is not None
    assert loaded.beta == 3.0
    assert torch.equal(loaded.projection, image_projection(encoder().model.visual))
    match = read_match(tmp_path)
    assert match is not None
    assert (match.kind, match.facts) == ("patches", {"objective": "pacl"})
    assert patch_match(encoder()) is None
    assert patch_match(replace(encoder(), folder=None)) is None


def test_a_match_of_another_model_is_refused(tmp_path: Path) -> None:
    loaded = saved(tmp_path)
    other = replace(loaded, fingerprint=replace(loaded.fingerprint, weights="f" * 64))
    with pytest.raises(ValueError, match=r"was learned for the weights .* and the model has ffffffffffff"):
        patch_match(other)


def test_a_damaged_match_is_refused(tmp_path: Path) -> None:
    loaded = saved(tmp_path)
    file = tmp_path / MATCH
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        patch_match(loaded)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"match\.safetensors"):
        patch_match(loaded)


def test_a_match_needs_its_model_and_a_known_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write the model first"):
        write_match(tmp_path, {}, "patches", {})
    with pytest.raises(ValueError, match="of kind 'words'; known are patches, late"):
        write_match(tmp_path, {}, "words", {})


def test_a_model_written_again_has_no_match_of_before(tmp_path: Path) -> None:
    saved(tmp_path)
    write_model(encoder(), tmp_path, {})
    assert read_match(tmp_path) is None
