"""Loading of open_clip models behind the Encoder protocol; the only file that imports open_clip.

Nothing in a checkpoint is executed (`checkpoint.read_checkpoint`).
"""

from __future__ import annotations

import copy
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

from rag_clip.data import Fingerprint
from rag_clip.errors import RagClipError, lacks
from rag_clip.files.reading import parse_json
from rag_clip.files.regular import is_regular, open_regular
from rag_clip.models.checkpoint import read_checkpoint
from rag_clip.models.folder import CONFIG, MERGES, WEIGHTS, image_identity
from rag_clip.models.hub import fetch
from rag_clip.models.misfit import describe_misfit, likely_architectures
from rag_clip.models.pixels import CentreCrop, PixelTransform
from rag_clip.models.published_settings import complete, settings_of_file, split_local
from rag_clip.models.quiet_logging import quiet_root_logger
from rag_clip.models.timm_models import TimmTower, VisionEncoder, build_tower, is_vision, load_vision
from rag_clip.models.towers import DTYPES, TwoTowers
from rag_clip.words import did_you_mean

ADVICE = (
    f"to use local weights give NAME:TAG@FILE, whose settings are those of TAG, or local-dir:FOLDER holding {CONFIG}"
)
TIMM = "timm_vision"  # in open_clip_config.json: an image tower that open_clip cannot describe
POSITIONS = ("visual.positional_embedding", "positional_embedding", "text.positional_embedding")


class EncoderError(RagClipError):
    """A model cannot be loaded; the message names the model, what was tried, and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from.

    model, pretrained: names for the fingerprint.
    checkpoint: file of the weights.
    architecture, tokenizer: names in open_clip's notation.
    merges: file of BPE merges, if the tokenizer has its own.
    preprocessing: settings of the image transform.
    activation: '' where the model's configuration states it.
    exact: whether the weights must have exactly the shapes of the architecture; otherwise positions for another image
        size or context length are interpolated.
    vision: describes a timm model in place of the image tower, for `build_tower`; {} for open_clip's own.
    """

    model: str
    pretrained: str
    checkpoint: Path
    architecture: str
    tokenizer: str
    merges: Path | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    activation: str = ""
    exact: bool = False
    vision: Mapping[str, Any] = field(default_factory=dict)


def load_encoder(
    spec: str, *, device: str | torch.device | None = None, precision: str | None = None
) -> TwoTowers | VisionEncoder:
    """Load a frozen encoder.

    `spec` is `demo`, NAME:TAG in open_clip's names (`ViT-B-32:openai`), NAME:TAG@FILE, NAME:FILE, `hf-hub:OWNER/NAME`,
    `local-dir:FOLDER`, or the path of such a folder or of a checkpoint in it. A local file uses the activation and
    preprocessing of TAG; without TAG, those that all published weights of NAME share, and it is refused if they differ.
    A folder contains `open_clip_config.json`, a checkpoint, and optionally `bpe.txt.gz`, the merges of its tokenizer.
    `timm:...` and `demo:second` are encoders without text (see `timm_models.load_vision`).

    `device` defaults to CUDA, then MPS, then the CPU; `precision` (fp32, bf16, fp16) to `default_precision`.
    Raises EncoderError.
    """
    try:
        place = choose_device(device)
    except ValueError as error:
        raise EncoderError(str(error)) from None
    precision = precision or default_precision(place)
    if precision not in DTYPES:
        raise EncoderError(f"precision {precision!r} is unknown; choose one of {', '.join(DTYPES)}")
    if is_vision(spec):
        try:
            with quiet_root_logger():
                return load_vision(spec, device=place, precision=precision, dtype=DTYPES[precision])
        except ValueError as error:
            raise EncoderError(str(error)) from error
    source = _find(spec)
    try:
        with quiet_root_logger():
            return _load(spec, source, place, precision)
    except EncoderError as error:
        raise EncoderError(f"model {spec!r} cannot be loaded from {source.checkpoint}: {error}") from error
    except Exception as error:  # open_clip and what it calls raise almost anything for a bad configuration or file
        if lacks(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise EncoderError(f"model {spec!r} cannot be loaded from {source.checkpoint} ({reason}); {ADVICE}") from error


def _load(spec: str, source: Source, device: torch.device, precision: str) -> TwoTowers:
    with open_regular(source.checkpoint) as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    model = open_clip.create_model(
        source.architecture,
        load_weights=False,
        pretrained_text=False,
        precision=precision,
        device=device,
        force_quick_gelu=source.activation == "QuickGELU",
        force_preprocess_cfg=dict(source.preprocessing),
    )
    settings = model.visual.preprocess_cfg
    preprocess: PixelTransform | CentreCrop = _pixel_transform(settings)
    if source.vision:
        model.visual, preprocess, settings = build_tower(source.vision)
        model.visual.to(device=device, dtype=DTYPES[precision])
    trained_bias = _fill(model, source)
    if device.type == "cuda":  # convolutions of half precision then need no copy of their input
        model.visual.to(memory_format=torch.channels_last)
    tokenizer = _tokenizer(source)
    preprocessing = {
        "pixels": asdict(preprocess),
        "mean": settings["mean"],
        "std": settings["std"],
        "context": tokenizer.context_length,
        "tokenizer": _tokenizer_identity(source, tokenizer),
    }
    facts = json.dumps(preprocessing, sort_keys=True)
    folder = source.checkpoint.parent if source.architecture.startswith("local-dir:") else None
    fingerprint = Fingerprint(
        source.model,
        source.pretrained,
        weights,
        facts,
        precision,
        activation=source.activation,
        spec=spec,
        resampler=preprocess.resampler,
        of_images=image_identity(folder, weights) if folder else "",
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
        trained_bias=trained_bias,
        preprocess=preprocess,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        config=_config(source, settings),
        merges=source.merges,
        folder=folder,
    )


def fresh(
    encoder: TwoTowers, *, towers: Literal["text", "both"], seed: int = 0, merges: Path | None = None
) -> TwoTowers:
    """Return an encoder of the same architecture with newly initialised weights; the given one is not changed.

    encoder: whose architecture, preprocessing and, with towers="text", image tower are taken.
    towers: what is initialised; the logit scale always is.
    seed: of the weights; the same on every device.
    merges: a file of BPE merges, for a tokenizer of its own; by default the encoder's tokenizer.

    Raises ValueError for an encoder that does not know its configuration.
    """
    model, config, tokenizer = _new_text(encoder, encoder.config, seed, merges)
    if TIMM in config:
        model.visual = build_tower(config[TIMM])[0]
    if towers == "text":
        model.visual.load_state_dict(encoder.model.visual.state_dict())
    shared = encoder.fingerprint if towers == "text" else None
    return _renewed(encoder, model, config, tokenizer, merges, shared, f"fresh {towers} {seed}")


def with_text(vision: VisionEncoder, like: TwoTowers, *, seed: int = 0, merges: Path | None = None) -> TwoTowers:
    """Return an image encoder with a new text tower; neither of the given encoders is changed.

    vision: the image tower, its preprocessing and the width of the joint space.
    like: whose text tower's architecture and, without `merges`, tokenizer are taken.
    seed, merges: as in `fresh`.
    """
    model_cfg = {**like.config["model_cfg"], "embed_dim": vision.dim, "custom_text": True}
    model, config, tokenizer = _new_text(
        like, {**like.config, "model_cfg": model_cfg, TIMM: vision.config}, seed, merges
    )
    model.visual = TimmTower(copy.deepcopy(vision.model).float())
    facts = {**json.loads(vision.fingerprint.preprocessing), "context": tokenizer.context_length}
    facts["tokenizer"] = json.loads(like.fingerprint.preprocessing)["tokenizer"]
    start = replace(
        like,
        name=vision.name,
        device=vision.device,
        dim=vision.dim,
        preprocess=vision.preprocess,
        mean=vision.mean,
        std=vision.std,
        fingerprint=replace(vision.fingerprint, preprocessing=json.dumps(facts, sort_keys=True)),
    )
    return _renewed(start, model, config, tokenizer, merges, vision.fingerprint, f"text {seed} for {vision.name}")


def _new_text(
    encoder: TwoTowers, config: Mapping[str, Any], seed: int, merges: Path | None
) -> tuple[Any, dict[str, Any], Any]:
    """Return a model of new weights, its configuration and its tokenizer."""
    if not config:
        raise ValueError(f"{encoder.name!r} does not know its configuration; load it with load_encoder")
    copied: dict[str, Any] = json.loads(json.dumps(config))
    tokenizer = encoder.tokenizer
    if merges is not None:
        text = copied["model_cfg"]["text_cfg"]
        tokenizer = open_clip.SimpleTokenizer(str(merges), context_length=text.get("context_length", 77))
        text["vocab_size"] = tokenizer.vocab_size
    with TemporaryDirectory() as folder, quiet_root_logger(), torch.random.fork_rng(devices=[]):
        (Path(folder) / CONFIG).write_text(json.dumps(copied))
        torch.manual_seed(seed)
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    return model, copied, tokenizer


def _renewed(
    start: TwoTowers,
    model: Any,
    config: Mapping[str, Any],
    tokenizer: Any,
    merges: Path | None,
    shared: Fingerprint | None,
    made: str,
) -> TwoTowers:
    """Return the encoder of a new model; `shared` has the same image vectors, and `made` says how it was made."""
    facts = json.loads(start.fingerprint.preprocessing)
    if merges is not None:
        facts["tokenizer"] = _bpe_identity(merges)
    fingerprint = replace(
        start.fingerprint,
        weights=hashlib.sha256(f"{made} of {start.fingerprint.key}".encode()).hexdigest(),
        preprocessing=json.dumps(facts, sort_keys=True),
        precision="fp32",
        spec="",
        of_images="" if shared is None else json.dumps(shared.image_part.identity, sort_keys=True),
    )
    model = model.to(start.device).eval().requires_grad_(False)
    return replace(
        start,
        name=f"fresh {start.name}",
        model=model,
        tokenizer=tokenizer,
        fingerprint=fingerprint,
        scale=float(model.logit_scale.exp()),
        bias=0.0 if model.logit_bias is None else float(model.logit_bias),
        trained_bias=False,
        config=config,
        merges=merges or start.merges,
    )


def byte_words(text: str) -> list[str]:
    """Return the words of a text as open_clip's tokenizer splits it, in its letters for the bytes of UTF-8."""
    tokenizer = _plain_tokenizer()
    words = tokenizer.pat.findall(tokenizer.clean_fn(text))
    return ["".join(tokenizer.byte_encoder[byte] for byte in word.encode()) for word in words]


@cache
def _plain_tokenizer() -> Any:
    return open_clip.SimpleTokenizer()


def model_config(spec: str) -> Mapping[str, Any]:
    """Return the `model_cfg` of a model with two towers, of which no weights are read or fetched.

    Raises EncoderError for an unknown model, for weights without a configuration, and for one without a text tower.
    """
    name = spec.partition(":")[0]
    if is_vision(spec):
        raise EncoderError(f"{spec!r} has no text tower; give a model with both, such as ViT-B-32:openai")
    if name in open_clip.list_models():
        return dict(open_clip.get_model_config(name))
    if spec.startswith("hf-hub:"):
        try:
            config = fetch(spec.removeprefix("hf-hub:"), [CONFIG])
        except OSError as error:
            raise EncoderError(f"the configuration of {spec!r} is not here: {error}") from error
    else:
        config = _find(spec).checkpoint.parent / CONFIG
    return dict(json.loads(config.read_bytes())["model_cfg"])


def token_lengths(encoder: TwoTowers, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text with its start and end, before it is cut to the context."""
    tokenizer: Any = encoder.tokenizer
    if hasattr(tokenizer, "encode"):
        return [len(tokenizer.encode(text)) + 2 for text in texts]
    return [len(ids) for ids in tokenizer.tokenizer(list(texts))["input_ids"]]


def _config(source: Source, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `open_clip_config.json` would say of a model."""
    model = {**open_clip.get_model_config(source.architecture)}
    if source.activation == "QuickGELU":
        model["quick_gelu"] = True
    if source.vision:
        return {"model_cfg": model, "preprocess_cfg": {}, TIMM: dict(source.vision)}
    return {"model_cfg": model, "preprocess_cfg": dict(preprocessing)}


def _fill(model: Any, source: Source) -> bool:
    """Load the weights as `open_clip.load_checkpoint` does, and return whether they include a logit bias.

    Raises EncoderError for weights that do not fit.
    """
    if source.checkpoint.suffix in (".npz", ".npy"):
        open_clip.load_checkpoint(model, str(source.checkpoint), weights_only=True)
        return model.logit_bias is not None
    expected = model.state_dict()
    try:
        state = convert_state_dict(model, read_checkpoint(source.checkpoint))
    except ValueError as error:
        raise EncoderError(str(error)) from error
    if "positional_embedding" in state and "positional_embedding" not in expected:
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in expected:
            state[name] = state[name].reshape(expected[name].shape)
    trained_bias = "logit_bias" in state
    if "logit_bias" in expected:
        state.setdefault("logit_bias", torch.zeros_like(state["logit_scale"]))
    state = {name: value for name, value in state.items() if name in expected or "position_ids" not in name}
    misfit = describe_misfit(state, expected, ignore=() if source.exact else POSITIONS)
    if misfit:
        raise EncoderError(_explain_misfit(misfit, state, source))
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    model.load_state_dict(state)
    return trained_bias


def _explain_misfit(misfit: str, state: Mapping[str, torch.Tensor], source: Source) -> str:
    if any(name.startswith(("vision_model.", "text_model.")) for name in state):
        return "its weights are named as in transformers; give the model's open_clip version, such as hf-hub:OWNER/NAME"
    likely = likely_architectures(state, {name: open_clip.get_model_config(name) for name in open_clip.list_models()})
    cure = (
        f"its shapes are those of {', '.join(likely)}" if likely else "give the model that the weights were saved from"
    )
    return f"the weights do not fit {source.model}: {misfit}; {cure}"


def _pixel_transform(settings: Mapping[str, Any]) -> PixelTransform:
    size, mode = settings["size"], settings["resize_mode"]
    height, width = (size, size) if isinstance(size, int) else size
    # open_clip ignores "bilinear" where it fits the shortest side to an input that is not square.
    bilinear = settings["interpolation"] == "bilinear" and (mode != "shortest" or height == width)
    return PixelTransform(height, width, mode, "bilinear" if bilinear else "bicubic", settings["fill_color"])


def _tokenizer(source: Source) -> Any:
    if source.merges is None:
        return open_clip.get_tokenizer(source.tokenizer)
    text = open_clip.get_model_config(source.architecture)["text_cfg"]
    return open_clip.SimpleTokenizer(str(source.merges), context_length=text.get("context_length", 77))


def _tokenizer_identity(source: Source, tokenizer: Any) -> str:
    if source.merges is not None:
        return _bpe_identity(source.merges)
    name = getattr(getattr(tokenizer, "tokenizer", None), "name_or_path", "")
    return f"{type(tokenizer).__name__} {Path(name).name}".strip()


def _bpe_identity(merges: Path) -> str:
    return f"bpe {hashlib.sha256(merges.read_bytes()).hexdigest()[:16]}"


def _find(spec: str) -> Source:
    if spec == "demo":
        return _in_folder(Path(str(importlib.resources.files("rag_clip.demo"))) / "assets" / "model", model="demo")
    if spec.startswith("hf-hub:"):
        return _on_hub(spec.removeprefix("hf-hub:"))
    if spec.startswith("local-dir:"):
        return _in_folder(Path(spec.removeprefix("local-dir:")))
    return _in_folder(Path(spec)) if Path(spec).exists() else _built_in(spec)


def _in_folder(path: Path, model: str = "") -> Source:
    folder = path.parent if is_regular(path) else path
    config, merges = folder / CONFIG, folder / MERGES
    if not is_regular(config):
        raise EncoderError(f"no model in {str(folder)!r}: there is no {CONFIG}; {ADVICE}")
    digest = hashlib.sha256(config.read_bytes()).hexdigest()[:12]
    checkpoint = path if path.is_file() else _checkpoint_in(folder)
    name = f"local-dir:{folder}"
    own = merges if is_regular(merges) else None
    vision = (parse_json(config.read_bytes()) or {}).get(TIMM, {})
    return Source(
        model or f"config {digest}",
        checkpoint.name,
        checkpoint,
        name,
        name,
        own,
        vision=vision,
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
    name, _, given = spec.partition(":")
    names, tags = open_clip.list_models(), open_clip.list_pretrained_tags_by_model(name)
    if name not in names:
        raise EncoderError(f"unknown model {name!r}, and no such file or folder; {_near_models(name, given)}{ADVICE}")
    published = {tag: open_clip.get_pretrained_cfg(name, tag) for tag in tags}
    quick_gelu = bool(open_clip.get_model_config(name).get("quick_gelu"))
    try:
        local = split_local(given, published)
        if local:
            tag, path = local
            settings = settings_of_file(name, tag, published, quick_gelu=quick_gelu)
            return _with_settings(name, tag or path.name, path, settings, exact=True)
    except ValueError as error:
        raise EncoderError(f"model {spec!r}: {error}; or give local-dir:FOLDER, whose {CONFIG} says them") from error
    if not (settings := open_clip.get_pretrained_cfg(name, given)):
        found = f"no pretrained tag {given!r}, and no such file" if given else "no pretrained tag was given"
        near = did_you_mean(spec, [f"{name}:{tag}" for tag in tags]) if given else ""
        choices = ", ".join(tags) or "none"
        raise EncoderError(f"model {name!r}: {found}; {near}choose {name}:TAG from {choices}; {ADVICE}")
    repository, _, filename = settings["hf_hub"].rpartition("/")
    try:
        checkpoint = fetch(repository, _with_safetensors(filename) if filename else WEIGHTS)
    except OSError as error:
        raise EncoderError(f"the weights of {spec!r} are not here: {error}; {ADVICE}") from error
    return _with_settings(name, given, checkpoint, complete(settings, quick_gelu))


def _near_models(name: str, given: str) -> str:
    """Return a suggestion of models with names like an unknown NAME:TAG, also if `name` is itself a tag."""
    pretrained = open_clip.list_pretrained()
    if given:
        return did_you_mean(f"{name}:{given}", [f"{known}:{tag}" for known, tag in pretrained])
    named_by_tag = [f"{known}:{tag}" for known, tag in pretrained if tag == name.lower().replace("-", "_")]
    if named_by_tag:
        return f"{name} is a tag; did you mean {', '.join(named_by_tag[:3])}? "
    return did_you_mean(name, ["demo", "demo:second", *open_clip.list_models()])


def _with_settings(
    name: str, tag: str, checkpoint: Path, settings: Mapping[str, Any], *, exact: bool = False
) -> Source:
    preprocessing = {key: value for key, value in settings.items() if key != "quick_gelu"}
    activation = "QuickGELU" if settings["quick_gelu"] else "GELU"
    return Source(name, tag, checkpoint, name, name, None, preprocessing, activation, exact)


def _with_safetensors(filename: str) -> list[str]:
    path = Path(filename)
    return [path.with_suffix(".safetensors").name, filename] if path.suffix in (".bin", ".pth") else [filename]


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return `device`, by default the first available of CUDA, MPS and CPU; raises ValueError if it cannot be used."""
    device = device or _default()
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()
    except Exception as error:  # torch raises RuntimeError, AssertionError or NotImplementedError, by kind of device
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"device {str(device)!r} cannot be used ({reason}); give cpu, cuda, cuda:N or mps") from None
    return place


def default_precision(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Return bf16 on CUDA, fp16 on GPUs before Ampere, which have no bf16 of their own, and fp32 elsewhere."""
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"


def _default() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
