"""timm models as encoders: their features and transform are timm's own, and what is missing is said at once."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from rag_clip.models.open_clip import EncoderError, load_encoder
from rag_clip.protocols import Encoder

NAME = "mobilenetv3_small_050"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 121, 3), np.uint8))
SMALL: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return timm.create_model(NAME, num_classes=7).eval()


@pytest.fixture(scope="module")
def checkpoint(model: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    save_file(model.state_dict(), path)
    return path


def write_folder(folder: Path, **settings: Any) -> Path:
    torch.manual_seed(1)
    made = timm.create_model("resnet18", num_classes=0, **SMALL)
    facts = {"input_size": [3, 32, 32], "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.25] * 3} | settings
    config = {"architecture": "resnet18", "num_classes": 0, "model_args": SMALL, "pretrained_cfg": facts}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(made.state_dict(), folder / "model.safetensors")
    return folder


def expected(model: Any, image: Image.Image) -> torch.Tensor:
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(transform(image)[None]), pre_logits=True)
    return torch.nn.functional.normalize(pooled, dim=-1)


def test_features_are_what_timm_pools_before_the_classifier(model: torch.nn.Module, checkpoint: Path) -> None:
    encoder = load_encoder(f"timm:{NAME}:{checkpoint}", device="cpu")
    found = encoder.encode_images([NOISE] * 70)
    assert isinstance(encoder, Encoder)
    assert (found.pooled.shape, found.pooled.dtype, encoder.dim) == ((70, 1024), torch.float32, 1024)
    torch.testing.assert_close(found.pooled[:1], expected(model, NOISE), atol=5e-5, rtol=0)
    torch.testing.assert_close(found.pooled[69], found.pooled[0], atol=1e-6, rtol=0)
    assert (encoder.scale, encoder.bias, encoder.model.training) == (1.0, 0.0, False)
    assert load_encoder(f"timm:{NAME}:{checkpoint}", device="cpu").encode_images([]).pooled.shape == (0, 1024)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
def test_pixels_equal_timms_transform(mode: str, interpolation: str, size: tuple[int, int], tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "crop_mode": mode,
        "interpolation": interpolation,
        "crop_pct": 0.85,
        "input_size": [3, *size],
    }
    encoder = load_encoder(f"timm:{write_folder(tmp_path, **facts)}", device="cpu")
    transform = create_transform(
        facts["input_size"], interpolation=interpolation, crop_pct=0.85, crop_mode=mode, normalize=False
    )
    preprocess = pickle.loads(pickle.dumps(encoder.preprocess))
    for shape in ((90, 121), (121, 90), (32, 32), (37, 37), (300, 20)):
        image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8))
        levels = np.abs(preprocess(image).astype(int) - transform(image).permute(1, 2, 0).numpy())
        assert levels.max() <= (2 if preprocess.resampler == "torch" else 0), shape


def test_a_pth_of_a_training_run_loads_like_its_weights(
    model: torch.nn.Module, checkpoint: Path, tmp_path: Path
) -> None:
    wrapped = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "last.pth")
    rows = [
        load_encoder(f"timm:{NAME}:{p}", device="cpu").encode_images([NOISE]).pooled
        for p in (tmp_path / "last.pth", checkpoint)
    ]
    assert torch.equal(rows[0], rows[1])


def test_the_fingerprint_follows_weights_and_transform_but_not_the_place(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    first = load_encoder(f"timm:{write_folder(folders[0])}", device="cpu").fingerprint
    assert load_encoder(f"timm:{write_folder(folders[1])}", device="cpu").fingerprint == first
    other = load_encoder(f"timm:{write_folder(folders[2], crop_pct=0.9)}", device="cpu").fingerprint
    assert not first.agrees_with(other)
    state = load_file(folders[1] / "model.safetensors")
    save_file(state | {"bn1.bias": state["bn1.bias"] + 1}, folders[1] / "model.safetensors")
    assert not first.agrees_with(load_encoder(f"timm:{folders[1]}", device="cpu").fingerprint)


def test_half_precision_stays_close_to_full(tmp_path: Path) -> None:
    write_folder(tmp_path)
    full, low = (load_encoder(f"timm:{tmp_path}", device="cpu", precision=name) for name in ("fp32", "bf16"))
    rows = [encoder.encode_images([NOISE]).pooled for encoder in (full, low)]
    assert rows[1].dtype == torch.float32
    torch.testing.assert_close((rows[0] * rows[1]).sum(1), torch.ones(1), rtol=0, atol=1e-3)


def test_texts_and_patches_are_refused_with_what_to_do(tmp_path: Path) -> None:
    encoder = load_encoder(f"timm:{write_folder(tmp_path)}", device="cpu")
    with pytest.raises(ValueError, match="has no text tower and cannot encode 1 text; give it as a further encoder"):
        encoder.encode_text(["a red kite"])
    with pytest.raises(ValueError, match="gives no patch features; encode with patches=False"):
        encoder.encode_images([NOISE], patches=True)


def test_weights_that_do_not_fill_the_model_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    state = load_file(checkpoint)
    save_file({key: value for key, value in state.items() if "blocks.3" not in key}, tmp_path / "part.safetensors")
    with pytest.raises(EncoderError, match=r"cannot be loaded from .*part.safetensors .*Missing key.*blocks.3"):
        load_encoder(f"timm:{NAME}:{tmp_path / 'part.safetensors'}", device="cpu")


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(EncoderError, match=r"weights_only=True|UnpicklingError"):
        load_encoder(f"timm:{NAME}:bad.pth", device="cpu")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("timm:mobilnet_v9", "timm has no model 'mobilnet_v9', and there is no such folder; close names: "),
        ("timm:resnet18.nope", "timm has no weights 'resnet18.nope'; it has .*resnet18.a1_in1k"),
        ("timm:resnet18:none.pth", "there is no checkpoint 'none.pth' for timm's resnet18; give timm:NAME:CHECKPOINT"),
        ("timm:.", "no timm model in '.': there is no config.json; give timm:NAME:CHECKPOINT"),
    ],
)
def test_what_cannot_be_found_is_named_with_what_to_do(
    spec: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError, match=reason):
        load_encoder(spec, device="cpu")


def test_a_name_alone_takes_its_weights_from_the_hubs_cache(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda _repository, _name: str(checkpoint))
    rows = [
        load_encoder(spec, device="cpu").encode_images([NOISE]).pooled
        for spec in (f"timm:{NAME}", f"timm:{NAME}:{checkpoint}")
    ]
    assert torch.equal(rows[0], rows[1])


def test_a_name_without_weights_fails_at_once_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    with pytest.raises(EncoderError, match=r"resnet18 are not here: .*no route to host.*timm:NAME:CHECKPOINT with a"):
        load_encoder("timm:resnet18", device="cpu")
