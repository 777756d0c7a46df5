"""Loading of open_clip models behind the Encoder protocol; the only file that imports open_clip.

Weights are read with safetensors or torch's weights-only loader: nothing in a checkpoint is executed.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch

from rag_clip.data import Fingerprint
from rag_clip.hub import fetch
from rag_clip.pixels import PixelTransform
from rag_clip.towers import DTYPES, TwoTowers
from rag_clip.vision_encoder import VisionEncoder, is_vision, load_vision

CONFIG = "open_clip_config.json"
MERGES = "bpe.txt.gz"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
ADVICE = f"to use local weights give NAME:CHECKPOINT, or local-dir:FOLDER holding {CONFIG} and a checkpoint"


class EncoderError(RuntimeError):
    """A model that cannot be loaded; the message names it, what was tried, and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from. `architecture` and `tokenizer` are names in open_clip's own notation."""

    model: str
    pretrained: str
    checkpoint: Path
    architecture: str
    tokenizer: str
    merges: Path | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    quick_gelu: bool = False


def load_encoder(
    spec: str, *, device: str | torch.device | None = None, precision: str | None = None
) -> TwoTowers | VisionEncoder:
    """Load a frozen encoder.

    `spec` is `demo`, NAME:PRETRAINED in open_clip's names (`ViT-B-32:openai`), NAME:CHECKPOINT, `hf-hub:OWNER/NAME`,
    `local-dir:FOLDER`, or the path of such a folder or of a checkpoint in it. A folder holds `open_clip_config.json`,
    a checkpoint, and optionally `bpe.txt.gz`, the merges of its tokenizer. `timm:...` and `demo:second` are encoders
    without text (see `vision_encoder.load_vision`).

    `device` defaults to CUDA, then MPS, then the CPU; `precision` (fp32, bf16, fp16) to fp16 on CUDA, else fp32.
    Raises EncoderError.
    """
    place = _place(device or _default_device())
    precision = precision or ("fp16" if place.type == "cuda" else "fp32")
    if precision not in DTYPES:
        raise EncoderError(f"precision {precision!r} is unknown; choose one of {', '.join(DTYPES)}")
    if is_vision(spec):
        try:
            with _quiet_root_logger():
                return load_vision(spec, device=place, precision=precision, dtype=DTYPES[precision])
        except ValueError as error:
            raise EncoderError(str(error)) from error
    source = _find(spec)
    try:
        with _quiet_root_logger():
            return _load(spec, source, place, precision)
    except Exception as error:  # open_clip and what it calls raise almost anything for a bad configuration or file
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise EncoderError(f"model {spec!r} cannot be loaded from {source.checkpoint} ({reason}); {ADVICE}") from error


def _load(spec: str, source: Source, device: torch.device, precision: str) -> TwoTowers:
    with source.checkpoint.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    model = open_clip.create_model(
        source.architecture,
        load_weights=False,
        pretrained_text=False,
        precision=precision,
        device=device,
        force_quick_gelu=source.quick_gelu,
        force_preprocess_cfg=dict(source.preprocessing),
    )
    open_clip.load_checkpoint(model, str(source.checkpoint), weights_only=True)
    settings = model.visual.preprocess_cfg
    tokenizer = _tokenizer(source)
    preprocess = _pixel_transform(settings)
    preprocessing = {
        "pixels": asdict(preprocess),
        "mean": settings["mean"],
        "std": settings["std"],
        "context": tokenizer.context_length,
        "tokenizer": _tokenizer_identity(source, tokenizer),
    }
    fingerprint = Fingerprint(
        source.model, source.pretrained, weights, json.dumps(preprocessing, sort_keys=True), precision
    )
    return TwoTowers(
        name=spec,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        device=device,
        dim=open_clip.get_model_config(source.architecture)["embed_dim"],
        scale=float(model.logit_scale.exp()),
        bias=0.0 if model.logit_bias is None else float(model.logit_bias),
        preprocess=preprocess,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )


def _pixel_transform(settings: Mapping[str, Any]) -> PixelTransform:
    size, mode = settings["size"], settings["resize_mode"]
    height, width = (size, size) if isinstance(size, int) else size
    # open_clip is bicubic unless told bilinear, and where a shortest side is fitted to an oblong input.
    bilinear = settings["interpolation"] == "bilinear" and (mode != "shortest" or height == width)
    return PixelTransform(height, width, mode, "bilinear" if bilinear else "bicubic", settings["fill_color"])


def _tokenizer(source: Source) -> Any:
    if source.merges is None:
        return open_clip.get_tokenizer(source.tokenizer)
    text = open_clip.get_model_config(source.architecture)["text_cfg"]
    return open_clip.SimpleTokenizer(str(source.merges), context_length=text.get("context_length", 77))


def _tokenizer_identity(source: Source, tokenizer: Any) -> str:
    if source.merges is not None:
        return f"bpe {hashlib.sha256(source.merges.read_bytes()).hexdigest()[:16]}"
    name = getattr(getattr(tokenizer, "tokenizer", None), "name_or_path", "")
    return f"{type(tokenizer).__name__} {Path(name).name}".strip()


def _find(spec: str) -> Source:
    if spec == "demo":
        return _in_folder(Path(str(importlib.resources.files("rag_clip.demo"))) / "assets" / "model", model="demo")
    if spec.startswith("hf-hub:"):
        return _on_hub(spec.removeprefix("hf-hub:"))
    if spec.startswith("local-dir:"):
        return _in_folder(Path(spec.removeprefix("local-dir:")))
    return _in_folder(Path(spec)) if Path(spec).exists() else _built_in(spec)


def _in_folder(path: Path, model: str = "") -> Source:
    folder = path.parent if path.is_file() else path
    config, merges = folder / CONFIG, folder / MERGES
    if not config.is_file():
        raise EncoderError(f"no model in {str(folder)!r}: there is no {CONFIG}; {ADVICE}")
    digest = hashlib.sha256(config.read_bytes()).hexdigest()[:12]
    checkpoint = path if path.is_file() else _checkpoint_in(folder)
    name = f"local-dir:{folder}"
    return Source(
        model or f"config {digest}", checkpoint.name, checkpoint, name, name, merges if merges.is_file() else None
    )


def _checkpoint_in(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    preferred = [folder / name for name in WEIGHTS if folder / name in found]
    if preferred or len(found) == 1:
        return (preferred or found)[0]
    names = ", ".join(path.name for path in found) or "none"
    raise EncoderError(f"{str(folder)!r} must hold one checkpoint, found {names}; give the path of the one to load")


def _on_hub(repository: str) -> Source:
    try:
        config, checkpoint = fetch(repository, [CONFIG]), fetch(repository, WEIGHTS)
    except OSError as error:
        raise EncoderError(f"model 'hf-hub:{repository}' is not here: {error}; {ADVICE}") from error
    architecture, text = f"local-dir:{config.parent}", json.loads(config.read_bytes())["model_cfg"]["text_cfg"]
    tokenizer = f"hf-hub:{repository}" if text.get("hf_tokenizer_name") else architecture
    return Source(repository, "hf-hub", checkpoint, architecture, tokenizer)


def _built_in(spec: str) -> Source:
    name, _, tag = spec.partition(":")
    names, tags = open_clip.list_models(), open_clip.list_pretrained_tags_by_model(name)
    if name not in names:
        close = ", ".join(difflib.get_close_matches(name, names, n=5, cutoff=0.5)) or "none"
        raise EncoderError(f"unknown model {name!r}, and no such file or folder; close names: {close}; {ADVICE}")
    if Path(tag).is_file():
        return Source(name, Path(tag).name, Path(tag), name, name)
    settings = open_clip.get_pretrained_cfg(name, tag)
    if not settings:
        found = f"no pretrained tag {tag!r}" if tag else "no pretrained tag was given"
        raise EncoderError(f"model {name!r}: {found}; choose {name}:TAG from {', '.join(tags) or 'none'}; {ADVICE}")
    repository, _, filename = settings["hf_hub"].rpartition("/")
    try:
        checkpoint = fetch(repository, _with_safetensors(filename) if filename else WEIGHTS)
    except OSError as error:
        raise EncoderError(f"the weights of {spec!r} are not here: {error}; {ADVICE}") from error
    preprocessing = {key: value for key, value in settings.items() if key != "size"}
    return Source(name, tag, checkpoint, name, name, None, preprocessing, settings.get("quick_gelu", False))


def _with_safetensors(filename: str) -> list[str]:
    path = Path(filename)
    return [path.with_suffix(".safetensors").name, filename] if path.suffix in (".bin", ".pth") else [filename]


def _place(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()
    except Exception as error:  # torch raises RuntimeError, AssertionError or NotImplementedError, by kind of device
        reason = " ".join(str(error).split())[:200]
        raise EncoderError(f"device {str(device)!r} cannot be used ({reason}); give cpu, cuda, cuda:N or mps") from None
    return place


def _default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Keep open_clip's records, which go to the root logger, from installing a handler there and from being shown."""
    root, handler = logging.getLogger(), logging.NullHandler()

    def drop(_record: logging.LogRecord) -> bool:
        return False

    root.addHandler(handler)
    root.addFilter(drop)
    try:
        yield
    finally:
        root.removeFilter(drop)
        root.removeHandler(handler)
