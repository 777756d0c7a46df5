"""Local files of weights of built-in names: they run as their tag was trained, or are refused with the reason."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from rag_clip.models.open_clip import EncoderError, load_encoder
from rag_clip.models.pixels import PixelTransform

VISION: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
TEXT: dict[str, Any] = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "Tiny": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "Large": {"embed_dim": 16, "vision_cfg": VISION | {"image_size": 64}, "text_cfg": TEXT},
    "Agreed": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "Unpublished": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
}
SMALL = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear", "resize_mode": "squash"}
TAGS: dict[str, dict[str, dict[str, Any]]] = {
    "Tiny": {"quick": {"quick_gelu": True}, "plain": {}, "other_pixels": SMALL},
    "Agreed": {"one": {"quick_gelu": True}, "two": {"quick_gelu": True}},
}


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    for name, config in CONFIGS.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, TAGS.get(name, {}))
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIGS["Tiny"])
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def activation(encoder) -> str:
    return type(encoder.model.transformer.resblocks[0].mlp.gelu).__name__


def test_a_local_file_runs_with_the_settings_of_its_tag(file):
    quick, plain, other = (load_encoder(f"Tiny:{tag}@{file}", device="cpu") for tag in TAGS["Tiny"])
    assert (activation(quick), activation(plain), activation(other)) == ("QuickGELU", "GELU", "GELU")
    assert (other.mean, other.std) == (SMALL["mean"], SMALL["std"])
    assert isinstance(other.preprocess, PixelTransform)
    assert (other.preprocess.interpolation, other.preprocess.resize_mode) == ("bilinear", "squash")
    assert not quick.fingerprint.agrees_with(plain.fingerprint)
    assert not plain.fingerprint.agrees_with(other.fingerprint)
    assert quick.fingerprint.spec == f"Tiny:quick@{file}"


def test_a_file_agrees_with_the_same_bytes_by_its_tag(file, monkeypatch):
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED["Tiny"]["quick"], "hf_hub", "someone/tiny/weights.pt")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda _repository, _name: str(file))
    by_tag, by_file = (load_encoder(spec, device="cpu") for spec in ("Tiny:quick", f"Tiny:quick@{file}"))
    assert by_tag.fingerprint == by_file.fingerprint
    assert by_tag.fingerprint.key == by_file.fingerprint.key


def test_a_bare_file_is_refused_where_tags_disagree_and_runs_where_they_agree(file):
    with pytest.raises(EncoderError, match=r"give Tiny:TAG@FILE, .*: quick \(QuickGELU, .*; or give local-dir:FOLDER"):
        load_encoder(f"Tiny:{file}", device="cpu")
    assert activation(load_encoder(f"Agreed:{file}", device="cpu")) == "QuickGELU"
    assert activation(load_encoder(f"Unpublished:{file}", device="cpu")) == "GELU"


def test_half_precision_weights_fill_a_model_of_full_precision(file):
    state = torch.load(file)["state_dict"]
    torch.save({f"_orig_mod.{name}": value.half() for name, value in state.items()}, file.with_name("half.pt"))
    full = load_encoder(f"Tiny:plain@{file}", device="cpu").encode_text(["a kite"])
    half = load_encoder(f"Tiny:plain@{file.with_name('half.pt')}", device="cpu").encode_text(["a kite"])
    torch.testing.assert_close(half, full, rtol=0, atol=1e-3)


def test_weights_of_another_architecture_are_refused_with_the_likely_one(file):
    with pytest.raises(EncoderError) as refused:
        load_encoder(f"Large:{file}", device="cpu")
    assert str(refused.value) == (
        f"model 'Large:{file}' cannot be loaded from {file}: the weights do not fit Large: "
        "1 tensor is of another shape "
        "(visual.positional_embedding is [5, 64], not [17, 64]); its shapes are those of Tiny, Agreed, Unpublished"
    )


def test_weights_named_as_in_transformers_are_refused_with_the_cure(file):
    torch.save({"vision_model.post_layernorm.bias": torch.ones(2)}, file)
    with pytest.raises(EncoderError, match="named as in transformers; give the model's open_clip version"):
        load_encoder(f"Tiny:plain@{file}", device="cpu")
