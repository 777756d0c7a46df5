"""A timm model as an image-only Encoder: a second image encoder, for heads such as CoMo; imports timm.

Features are the pooled features before the classifier, normalised to unit length. Weights are read with safetensors or
torch's weights-only loader and must match the model exactly, so that no layer stays randomly initialised.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch.nn.functional import normalize

from rag_clip.data import Features, Fingerprint
from rag_clip.display import counted
from rag_clip.files.regular import is_regular, open_regular
from rag_clip.models.decode import decode_image
from rag_clip.models.hub import fetch
from rag_clip.models.pixels import CentreCrop, PixelTransform
from rag_clip.models.towers import standardised

PREFIX = "timm:"
DEMO = "demo:second"
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
IMAGE_BATCH = 64
_SETTINGS = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
ADVICE = f"give timm:NAME:CHECKPOINT with a local file, or timm:FOLDER holding {CONFIG} and {WEIGHTS[0]}"


@dataclass(frozen=True, slots=True, eq=False)
class VisionEncoder:
    """A timm model as an Encoder; made by `load_encoder("timm:...")`. Without text, its scale is 1 and its bias 0.

    `config` says how to build it again: `architecture`, `model_args` and `settings`.
    """

    name: str
    model: Any
    fingerprint: Fingerprint
    device: torch.device
    dtype: torch.dtype
    dim: int
    preprocess: CentreCrop
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 1.0
    bias: float = 0.0
    trained_bias: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"VisionEncoder({self.name!r}, width {self.dim}, {self.fingerprint.precision} on {self.device})"

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Raise ValueError: the model encodes only images."""
        raise ValueError(
            f"{self.name!r} has no text tower and cannot encode {counted(len(texts), 'text')}; give it as a further "
            "encoder, beside one of images and text"
        )

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        """Embed uint8 pixels [n, 3, height, width] in one batch; raises ValueError where patches are asked for."""
        if patches:
            raise ValueError(f"{self.name!r} gives no patch features; encode with patches=False")
        values = standardised(pixels.to(self.device), self.mean, self.std).to(self.dtype)
        # Normalised in float32, since squares overflow in float16.
        return Features(normalize(self.model(values).float(), dim=-1))

    def encode_images(self, images: Sequence[Image.Image | bytes], *, patches: bool = False) -> Features:
        """Decode where needed, preprocess and embed images, `IMAGE_BATCH` at a time. Raises decode.ImageError."""
        parts = [torch.zeros(0, self.dim, device=self.device)]
        for start in range(0, len(images), IMAGE_BATCH):
            batch = images[start : start + IMAGE_BATCH]
            side = self.preprocess.least_side
            decoded = (decode_image(image, least_side=side) if isinstance(image, bytes) else image for image in batch)
            pixels = torch.stack([torch.from_numpy(self.preprocess(image)).permute(2, 0, 1) for image in decoded])
            parts.append(self.encode_pixels(pixels, patches=patches).pooled)
        return Features(torch.cat(parts))


@dataclass(frozen=True, slots=True)
class _Source:
    """A timm model: its architecture, and the checkpoint with its model arguments and data settings."""

    name: str
    architecture: str
    checkpoint: Path
    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]


def is_vision(spec: str) -> bool:
    """Return whether `spec` is a specification for `load_vision`."""
    return spec.startswith(PREFIX) or spec == DEMO


def load_vision(spec: str, *, device: torch.device, precision: str, dtype: torch.dtype) -> VisionEncoder:
    """Load timm:NAME (from the hub's cache or the hub), timm:NAME:CHECKPOINT, timm:FOLDER, or demo:second.

    A checkpoint is a state dict as .safetensors, or as .pth with only weights; it may include the classifier. The image
    transform is timm's evaluation transform of the model. Raises ValueError, saying what to do.
    """
    source = _find(spec)
    try:
        model, settings = _build(source)
        model = model.eval().requires_grad_(False).to(device=device, dtype=dtype)
        preprocess = _pixel_transform(settings)
        size = (1, 3, preprocess.height, preprocess.width)
        with torch.no_grad():
            shape = model(torch.zeros(size, device=device, dtype=dtype)).shape
        if len(shape) != 2:
            raise ValueError(f"it gives features {tuple(shape)}, not one row per image")
    except Exception as error:  # timm, torch and safetensors raise almost anything for a file of another model
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"model {spec!r} cannot be loaded from {source.checkpoint} ({reason}); {ADVICE}") from error
    with open_regular(source.checkpoint) as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    preprocessing = json.dumps({"pixels": asdict(preprocess), "mean": mean, "std": std}, sort_keys=True)
    fingerprint = Fingerprint(
        f"timm {source.name}",
        source.checkpoint.name,
        weights,
        preprocessing,
        precision,
        spec=spec,
        resampler=preprocess.resampler,
    )
    config = {
        "architecture": source.architecture,
        "model_args": dict(source.arguments),
        "settings": {name: settings[name] for name in _SETTINGS},
    }
    return VisionEncoder(spec, model, fingerprint, device, dtype, shape[1], preprocess, mean, std, config=config)


class TimmTower(torch.nn.Module):
    """A timm model as the image tower of an open_clip model; `lock` locks it as a whole."""

    def __init__(self, trunk: torch.nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return features [n, d] of values [n, 3, height, width]."""
        features: torch.Tensor = self.trunk(values)
        return features

    def lock(self, unlocked_groups: int = 0, *, freeze_bn_stats: bool = False) -> None:
        """Lock all weights; raises RuntimeError for unlocked groups, which a timm model does not have here."""
        if unlocked_groups:
            raise RuntimeError("the groups of a timm model are not known")
        self.requires_grad_(False)


def build_tower(config: Mapping[str, Any]) -> tuple[TimmTower, CentreCrop, Mapping[str, Any]]:
    """Return a tower with random weights, its image transform and its settings, from the `config` of a VisionEncoder.

    Raises ValueError for another document.
    """
    try:
        settings = dict(config["settings"])
        trunk = timm.create_model(str(config["architecture"]), num_classes=0, **dict(config["model_args"]))
        return TimmTower(trunk), _pixel_transform(settings), settings
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"its image tower is not described as a timm model ({type(error).__name__}: {error})"
        ) from error


def _build(source: _Source) -> tuple[Any, Mapping[str, Any]]:
    state = timm.models.load_state_dict(str(source.checkpoint), weights_only=True)
    for layer in _names(source.settings.get("classifier")):
        state = {key: value for key, value in state.items() if not key.startswith(f"{layer}.")}
    given = {**source.settings, "state_dict": state, "source": "", "num_classes": 0, "custom_load": False}
    model = timm.create_model(
        source.architecture, pretrained=True, pretrained_cfg=given, num_classes=0, **source.arguments
    )
    data: Any = timm.data
    return model, data.resolve_model_data_config(model)


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _find(spec: str) -> _Source:
    if spec == DEMO:
        return _in_folder(Path(str(importlib.resources.files("rag_clip.demo"))) / "assets" / "second", DEMO)
    place = spec.removeprefix(PREFIX)
    if Path(place).is_dir():
        return _in_folder(Path(place))
    name, _, checkpoint = place.partition(":")
    settings = _settings(name)
    if not checkpoint:
        return _Source(name, name, _on_hub(name, settings), {}, settings)
    if not is_regular(checkpoint):
        raise ValueError(f"there is no checkpoint {checkpoint!r} for timm's {name}; {ADVICE}")
    return _Source(name, name, Path(checkpoint), {}, settings)


def _in_folder(folder: Path, name: str = "") -> _Source:
    config, found = folder / CONFIG, [folder / file for file in WEIGHTS if is_regular(folder / file)]
    if not is_regular(config) or not found:
        missing = " or ".join(WEIGHTS) if is_regular(config) else CONFIG
        raise ValueError(f"no timm model in {str(folder)!r}: there is no {missing}; {ADVICE}")
    try:
        read = json.loads(config.read_bytes())
        architecture, settings = str(read["architecture"]), dict(read.get("pretrained_cfg", {}))
        arguments = {str(key): value for key, value in read.get("model_args", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{config} is not a configuration of timm ({type(error).__name__}: {error})") from error
    digest = hashlib.sha256(config.read_bytes()).hexdigest()[:12]
    return _Source(name or f"config {digest}", architecture, found[0], arguments, settings)


def _settings(name: str) -> Mapping[str, Any]:
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.partition('.')[0][:8]}*")[:5]) or "none"
        raise ValueError(f"timm has no model {name!r}, and there is no such folder; close names: {close}; {ADVICE}")
    try:
        found: Any = timm.get_pretrained_cfg(name)
        return dict(found.to_dict())
    except (RuntimeError, AttributeError):  # an unknown tag after the dot, or None
        tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*")) or "none"
        raise ValueError(f"timm has no weights {name!r}; it has {tags}; {ADVICE}") from None


def _on_hub(name: str, settings: Mapping[str, Any]) -> Path:
    repository, filename = settings.get("hf_hub_id"), settings.get("hf_hub_filename")
    if not repository:
        raise ValueError(f"timm publishes no weights of {name!r} on the hub; {ADVICE}")
    try:
        return fetch(repository, [filename] if filename else WEIGHTS)
    except OSError as error:
        raise ValueError(f"the weights of timm's {name} are not here: {error}; {ADVICE}") from error


def _pixel_transform(settings: Mapping[str, Any]) -> CentreCrop:
    """Return timm's evaluation transform; padding (crop_mode border) is grey instead of the mean colour."""
    height, width = settings["input_size"][1:]
    interpolation, mode = settings["interpolation"], settings["crop_mode"]
    if interpolation not in ("bicubic", "bilinear"):
        raise ValueError(f"it wants {interpolation} resizing; only bicubic and bilinear are known")
    share = settings["crop_pct"]
    resize_mode = {"squash": "squash", "border": "longest"}.get(mode, "shortest")
    fill = round(255 * sum(settings["mean"]) / 3) if mode == "border" else 0
    larger = PixelTransform(math.floor(height / share), math.floor(width / share), resize_mode, interpolation, fill)  # type: ignore[arg-type]
    return CentreCrop(larger, height, width)
