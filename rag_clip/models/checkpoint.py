"""Tensors of a checkpoint by name, without running its code: safetensors, torch.save in any layout, or TorchScript.

Pickles are read by torch's weights-only loader. Types that the loader does not know, such as the arguments of a
training run, become inert `_Opaque` objects: the file can be opened, and nothing is executed. Tensors of a TorchScript
archive are read in the same way; its code is not run.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

STATE_KEYS = ("state_dict", "model_state_dict", "model", "module")
PREFIXES = ("module.", "model.", "clip_model.", "clip.")
NO_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}  # constants of OpenAI's archives
CURE = "open it where it was made and save its weights alone, with torch.save(model.state_dict(), FILE)"


class _Opaque:
    """Replaces an object of a type that is not loaded; keeps its state, which may contain tensors."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a model's state by name, on the CPU, in the dtypes of the file.

    The state may be beside an optimiser's, under `state_dict`, `model` or `module`, or in a whole saved model. The
    prefixes of wrappers (`module.` of DataParallel, `_orig_mod.` of torch.compile) are removed.
    Raises ValueError where a file is damaged, has no weights, or is refused by torch's weights-only loader.
    """
    path = Path(path)
    if path.stat().st_size < 1024:
        start = path.read_bytes()[:1024]
        if start.startswith(b"version https://git-lfs"):
            raise ValueError("it is a pointer of Git LFS, not the weights; run `git lfs pull` in its repository")
        if not start:
            raise ValueError("the file is empty; copy it again")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file, or a damaged one ({error}); copy it again") from error
    except pickle.UnpicklingError as error:
        raise ValueError(f"torch's weights-only loader refuses it ({_reason(error)}); {CURE}") from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"it is no checkpoint of PyTorch, or a damaged one ({_reason(error)}); {CURE}") from error
    state = {name: value for name, value in _tensors(_find_state(content)) if name.split(".")[-1] not in NO_WEIGHTS}
    if not state:
        keys = list(content)[:5] if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"it holds no weights of a model, but {keys}; {CURE}")
    return _without_prefixes(state)


def _load(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        with torch.serialization.safe_globals([(_Opaque, "argparse.Namespace")]):  # the layout of torch before 1.6
            return torch.load(path, map_location="cpu", weights_only=True)
    file = _without_code(path)
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    if isinstance(file, io.BytesIO):
        file.seek(0)
    with torch.serialization.safe_globals([(_Opaque, name) for name in unknown]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _without_code(path: Path) -> Path | io.BytesIO:
    """Return the path; for a TorchScript archive, an in-memory copy of its data in the layout of torch.save."""
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return path
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as plain:
            for item in archive.infolist():
                _, _, inner = item.filename.partition("/")
                if inner in ("data.pkl", "version", "byteorder") or inner.startswith("data/"):
                    plain.writestr(f"archive/{inner}", archive.read(item))
    copy.seek(0)
    return copy


def _find_state(content: object) -> object:
    """Return the model's part of a checkpoint: the value of the first of `STATE_KEYS` that contains tensors."""
    if isinstance(content, Mapping):
        for key in STATE_KEYS:
            inner = content.get(key)
            if isinstance(inner, (Mapping, _Opaque)) and next(_tensors(inner), None):
                return _find_state(inner)
        if not any(isinstance(value, torch.Tensor) for value in content.values()):
            return {}
    return content


def _tensors(content: object, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (dotted name, tensor) of a state, of a whole saved module, or of a TorchScript module."""
    values = content if isinstance(content, Mapping) else getattr(content, "__dict__", {})
    transient = values.get("_non_persistent_buffers_set", ())
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        elif name in ("_parameters", "_buffers", "_modules") and isinstance(value, Mapping):
            kept = {key: item for key, item in value.items() if key not in transient}
            yield from _tensors(kept, prefix)
        elif isinstance(value, _Opaque):
            yield from _tensors(value, f"{prefix}{name}.")


def _without_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    plain = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in plain):
            return _without_prefixes({name.removeprefix(prefix): value for name, value in plain.items()})
    return plain


def _reason(error: BaseException) -> str:
    """Return the cause of a torch.load error, without torch's general advice."""
    advice = ("Weights only load failed", "Re-running", "Please file", "Check the documentation", "(1)", "(2)")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {next((line for line in lines if not line.startswith(advice)), '')[:150]}"
