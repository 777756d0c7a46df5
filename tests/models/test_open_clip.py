"""Encoders against open_clip itself, on small models with random weights written to a folder."""

import dataclasses
import gzip
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from inputs.open_clip_models import CLIP, MODELS, TEXT, VISION, load_towers, write_model
from rag_clip.models.folder import CONFIG
from rag_clip.models.open_clip import EncoderError, default_precision, load_encoder
from rag_clip.models.pixels import PixelTransform
from rag_clip.models.text_tower import causal_tower
from rag_clip.protocols import Encoder

TEXTS = (
    "a photo of a red kite",
    "",
    "Kite",
    "KITE",
    "a very long caption " * 20,
    "the Eiffel Tower, Paris & its caf\u00e9s \u2013 at night!",
    "a photo of a red kite",
)
NOISE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


def reference(spec: str, texts: tuple[str, ...]) -> torch.Tensor:
    model = open_clip.create_model(spec).eval()
    with torch.inference_mode():
        return model.encode_text(open_clip.get_tokenizer(spec)(list(texts)), normalize=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("clip"), CLIP)


@pytest.mark.parametrize("kind", MODELS)
def test_text_embeddings_equal_open_clips_own(kind, tmp_path):
    spec = write_model(tmp_path, MODELS[kind])
    encoder = load_encoder(spec, device="cpu")
    rows = encoder.encode_text(TEXTS)
    assert (rows.dtype, rows.shape) == (torch.float32, (7, 16))
    assert isinstance(encoder, Encoder)
    torch.testing.assert_close((rows * reference(spec, TEXTS)).sum(1), torch.ones(7), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(7))


def test_only_causal_towers_pooled_at_the_end_token_are_cut_and_share_beginnings(tmp_path):
    computed = {}
    for kind in ("clip", "custom text", "custom blocks", "not causal"):
        encoder = load_encoder(write_model(tmp_path / kind, MODELS[kind]), device="cpu")
        seen: list[int] = []
        tower = encoder.model if kind == "clip" else encoder.model.text
        tower.transformer.resblocks[0].ln_1.register_forward_pre_hook(
            lambda _module, inputs, seen=seen: seen.append(inputs[0][..., 0].numel())
        )
        encoder.encode_text(["a kite", "a kite", "a red kite"])
        computed[kind] = seen
    # Start, a, kite and end; red, kite and end. Other blocks take two rows up to the longest, or the whole context.
    assert computed == {"clip": [7], "custom text": [7], "custom blocks": [10], "not causal": [48]}


def test_order_of_texts_is_kept_over_several_batches(clip):
    encoder = load_towers(clip)
    tower = causal_tower(encoder.model)
    assert tower is not None
    texts = [f"{'very ' * (index % 7)}red kite number {index}" for index in range(60)]
    whole = encoder.encode_text(texts)
    with torch.no_grad():
        parts = tower.encode(encoder.tokenizer(texts), batch_tokens=40)
        turned = tower.encode(encoder.tokenizer(texts[::-1]), batch_tokens=40)
    torch.testing.assert_close(torch.nn.functional.normalize(parts, dim=-1), whole)
    torch.testing.assert_close(torch.nn.functional.normalize(turned, dim=-1), whole.flip(0))


def test_no_texts_give_no_rows(clip):
    assert load_encoder(clip, device="cpu").encode_text([]).shape == (0, 16)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_close_to_full(clip, precision):
    full, low = (load_encoder(clip, device="cpu", precision=name) for name in ("fp32", precision))
    texts, images = list(TEXTS), [Image.fromarray(NOISE)]
    for ours, theirs in (
        (low.encode_text(texts), full.encode_text(texts)),
        (low.encode_images(images).pooled, full.encode_images(images).pooled),
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close((ours * theirs).sum(1), torch.ones(len(ours)), rtol=0, atol=2e-3)
    assert low.fingerprint == dataclasses.replace(full.fingerprint, precision=precision)
    assert low.fingerprint.agrees_with(full.fingerprint)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [32, (48, 32)])
def test_pixels_equal_open_clips_transform(mode, interpolation, size, tmp_path):
    preprocess = {"resize_mode": mode, "interpolation": interpolation, "mean": [0.5, 0.4, 0.3], "fill_color": 7}
    spec = write_model(tmp_path, CLIP | {"vision_cfg": VISION | {"image_size": size}}, preprocess)
    model, _, transform = open_clip.create_model_and_transforms(spec)
    encoder, seen = load_encoder(spec, device="cpu"), []
    encoder.model.visual.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    for shape in ((50, 70), (71, 50), (32, 32), (20, 300), (1, 1), (33, 47)):
        pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
        image = Image.fromarray(pixels)
        rows = encoder.encode_images([image]).pooled
        expected = transform(image)[None]
        std = torch.tensor(encoder.std).view(3, 1, 1)
        given = seen.pop()
        levels = ((given - expected) * std * 255).abs().max()  # torchvision resizes with Pillow, as test_pixels has it
        assert levels < (2.01 if encoder.preprocess.resampler == "torch" else 0.01), shape
        with torch.inference_mode():
            torch.testing.assert_close(rows, model.eval().encode_image(given, normalize=True))


def test_the_transform_survives_pickling_and_extreme_shapes(clip):
    preprocess = pickle.loads(pickle.dumps(load_encoder(clip, device="cpu").preprocess))
    for mode in ("shortest", "longest", "squash"):
        transform = dataclasses.replace(preprocess, resize_mode=mode)
        assert transform(Image.new("L", (20_000, 1), 9)).shape == (32, 32, 3)


def test_bytes_and_decoded_images_give_the_same_features(clip, tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(NOISE).save(path)
    encoder = load_encoder(clip, device="cpu")
    rows = encoder.encode_images([path.read_bytes(), Image.fromarray(NOISE)]).pooled
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-6)  # a product may split its rows unevenly


def test_patch_features_are_projected_as_the_class_token_is(clip):
    encoder = load_encoder(clip, device="cpu")
    images = [Image.fromarray(NOISE)] * 70
    found = encoder.encode_images(images, patches=True)
    assert found.patches is not None
    assert (found.pooled.shape, found.patches.shape) == ((70, 16), (70, 4, 16))
    torch.testing.assert_close(found.pooled, encoder.encode_images(images).pooled)
    torch.testing.assert_close(found.patches.norm(dim=-1), torch.ones(70, 4))
    pixels = torch.from_numpy(encoder.preprocess(images[0])).permute(2, 0, 1)[None]
    visual, mean, std = encoder.model.visual, encoder.mean, encoder.std
    values = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    visual.output_tokens = True
    with torch.inference_mode():
        tokens = visual(values)[1] @ visual.proj
    torch.testing.assert_close(found.patches[0], torch.nn.functional.normalize(tokens[0], dim=-1))


def test_patches_of_a_tower_without_them_are_refused(tmp_path):
    encoder = load_encoder(write_model(tmp_path, MODELS["coca"]), device="cpu")
    with pytest.raises(ValueError, match="VisionTransformer has no patch features in the joint space"):
        encoder.encode_images([Image.fromarray(NOISE)], patches=True)


def test_scale_bias_and_freezing_come_from_the_model(clip, tmp_path):
    plain = load_encoder(clip, device="cpu")
    siglip = load_encoder(write_model(tmp_path, MODELS["not causal"]), device="cpu")
    assert (round(plain.scale, 3), plain.bias, siglip.bias) == (14.286, 0.0, -10.0)
    assert (plain.trained_bias, siglip.trained_bias) == (False, True)
    assert not plain.model.training
    assert not any(parameter.requires_grad for parameter in plain.model.parameters())


def test_a_bias_that_open_clip_fills_in_was_not_trained(tmp_path):
    weights = Path(
        write_model(tmp_path, MODELS["not causal"]).removeprefix("local-dir:"), "open_clip_model.safetensors"
    )
    state = load_file(weights)
    for bias, trained in ((state.pop("logit_bias"), True), (torch.tensor(0.0), True), (None, False)):
        save_file(state | ({} if bias is None else {"logit_bias": bias}), weights)
        encoder = load_encoder(str(tmp_path), device="cpu")
        assert (encoder.bias, encoder.trained_bias) == (float(bias or 0), trained)


def test_the_fingerprint_follows_weights_and_transform(clip, tmp_path):
    first = load_encoder(clip, device="cpu").fingerprint
    same = load_encoder(write_model(tmp_path / "same", CLIP), device="cpu").fingerprint
    bilinear = load_encoder(
        write_model(tmp_path / "other", CLIP, {"interpolation": "bilinear"}), device="cpu"
    ).fingerprint
    assert first == same
    assert not first.agrees_with(bilinear)
    state = load_file(f"{clip.removeprefix('local-dir:')}/open_clip_model.safetensors")
    save_file(state | {"logit_scale": torch.tensor(1.0)}, tmp_path / "same" / "open_clip_model.safetensors")
    assert not first.agrees_with(load_encoder(str(tmp_path / "same"), device="cpu").fingerprint)


def test_own_merges_in_the_folder_make_the_tokenizer(tmp_path):
    spec = write_model(tmp_path, CLIP | {"text_cfg": TEXT | {"vocab_size": 515}})
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(b"#version\nr e\nre d</w>"))
    encoder = load_towers(spec)
    assert encoder.tokenizer(["red"]).tolist() == [[514, 513, 515, *[0] * 21]]
    assert "bpe " in encoder.fingerprint.preprocessing


def test_a_checkpoint_beside_its_configuration_loads_by_path(clip, tmp_path):
    state = load_file(f"{clip.removeprefix('local-dir:')}/open_clip_model.safetensors")
    write_model(tmp_path, CLIP)
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "epoch_3.pt"
    )
    rows = load_encoder(str(tmp_path / "epoch_3.pt"), device="cpu").encode_text(TEXTS)
    torch.testing.assert_close(rows, load_encoder(clip, device="cpu").encode_text(TEXTS))


def test_built_in_names_and_hub_repositories_load_what_the_cache_holds(tmp_path, monkeypatch):
    quick = write_model(tmp_path, CLIP | {"quick_gelu": True})
    settings = {"hf_hub": "someone/tiny/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-quick", CLIP | {"quick_gelu": True})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", CLIP)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny", {"some_tag": settings})
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda _repository, name: str(tmp_path / name))
    checkpoint = f"Tiny-quick:{tmp_path / 'open_clip_model.safetensors'}"
    specs = ("Tiny:some-tag", checkpoint, "hf-hub:someone/tiny")
    expected = load_encoder(quick, device="cpu").encode_text(TEXTS)
    encoders = [load_encoder(spec, device="cpu") for spec in specs]
    for encoder in encoders:
        torch.testing.assert_close(encoder.encode_text(TEXTS), expected)
    assert isinstance(encoders[0].preprocess, PixelTransform)
    assert (encoders[0].mean, encoders[0].preprocess.resize_mode) == ((0.1, 0.2, 0.3), "squash")
    assert [(encoder.fingerprint.model, encoder.fingerprint.pretrained) for encoder in encoders] == [
        ("Tiny", "some-tag"),
        ("Tiny-quick", "open_clip_model.safetensors"),
        ("someone/tiny", "hf-hub"),
    ]


def test_a_head_can_be_trained_on_embeddings(clip):
    encoder = load_encoder(clip, device="cpu")
    head = torch.nn.Linear(16, 2)
    for rows in (encoder.encode_text(["kite"]), encoder.encode_images([Image.fromarray(NOISE)]).pooled):
        head(rows).sum().backward()
        assert not rows.requires_grad
        assert head.weight.grad is not None
        torch.testing.assert_close(head.weight.grad[0], rows[0])
        head.zero_grad()


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path, CLIP)
    (tmp_path / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": Malicious()}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(EncoderError, match="UnpicklingError"):
        load_encoder(str(tmp_path), device="cpu")
    assert not (tmp_path / "executed").exists()


def test_loading_leaves_the_root_logger_as_it_was(clip, capsys):
    before = (list(logging.getLogger().handlers), list(logging.getLogger().filters))
    load_encoder(clip, device="cpu")
    assert (list(logging.getLogger().handlers), list(logging.getLogger().filters)) == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("ViT-B-23:openai", r"unknown model 'ViT-B-23'.*did you mean ViT-B-32:openai, .*local-dir:FOLDER"),
        ("ViT-B-32", r"no pretrained tag was given; choose ViT-B-32:TAG from openai, "),
        ("demmo", r"unknown model 'demmo', and no such file or folder; did you mean demo\? to use local"),
        ("openai", r"openai is a tag; did you mean RN50:openai, "),
        (
            "ViT-B-32:opnai",
            r"'opnai', and no such file; did you mean ViT-B-32:openai.* choose ViT-B-32:TAG from openai, ",
        ),
        ("local-dir:/no/such/folder", r"no model in '/no/such/folder': there is no open_clip_config.json"),
    ],
)
def test_what_cannot_be_found_is_named_with_what_to_do(spec, reason):
    with pytest.raises(EncoderError, match=reason):
        load_encoder(spec, device="cpu")


def test_an_unknown_precision_is_refused(clip):
    with pytest.raises(EncoderError, match="choose one of fp32, bf16, fp16"):
        load_encoder(clip, device="cpu", precision="int8")


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused_by_name(device, clip):
    with pytest.raises(EncoderError, match=f"device '{device}' cannot be used .* give cpu, cuda"):
        load_encoder("demo", device=device)


def test_a_folder_with_several_unknown_checkpoints_is_ambiguous(tmp_path):
    (tmp_path / CONFIG).write_text(json.dumps({"model_cfg": CLIP}))
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    with pytest.raises(EncoderError, match=r"must hold one checkpoint, found a.pt, b.pt"):
        load_encoder(str(tmp_path), device="cpu")


@pytest.mark.parametrize("spec", ["ViT-B-32:openai", "hf-hub:timm/ViT-B-16-SigLIP"])
def test_without_a_network_the_error_says_what_was_tried(spec, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    with pytest.raises(EncoderError, match=rf"{spec}.*not here: .*timm/.*no route to host.*local-dir:FOLDER"):
        load_encoder(spec, device="cpu")


def test_the_precision_depends_on_the_device() -> None:
    assert default_precision(torch.device("cpu")) == default_precision(torch.device("mps")) == "fp32"
