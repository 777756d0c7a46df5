"""Text-to-image pipelines of diffusers as a Painter; the only file that imports diffusers (extra `synthesis`)."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from rag_clip.errors import RagClipError

# SuS-X (Udandarao et al., 2023, arXiv 2211.16198) with Stable Diffusion 1.4.
GUIDANCE, STEPS = 9.5, 85
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PainterError(RagClipError, ValueError):
    """A painter cannot be loaded, fails, or returns other images than requested; the message is one line."""


@dataclass(frozen=True, slots=True, eq=False)
class DiffusersPainter:
    """A Painter around a text-to-image `pipeline`; made by `load_diffusers_painter`."""

    name: str
    settings: Mapping[str, Any]
    size: tuple[int, int]
    pipeline: Any

    def paint(self, texts: Sequence[str], *, seeds: Sequence[int]) -> list[Image.Image]:
        """Return one image per text, in one batch; an image withheld by a safety checker is black."""
        if not texts:
            return []
        # Noise is drawn on the CPU, so that a seed gives the same image on every device.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        asked = {"num_inference_steps": self.settings["steps"], "guidance_scale": self.settings["guidance"]}
        width, height = self.size
        taken = inspect.signature(self.pipeline.__call__).parameters
        asked = {key: value for key, value in {**asked, "width": width, "height": height}.items() if key in taken}
        painted = self.pipeline(prompt=list(texts), generator=generators, output_type="pil", **asked)
        images: list[Image.Image] = painted.images
        return images


def load_diffusers_painter(
    spec: str,
    *,
    guidance: float | None = None,
    steps: int | None = None,
    size: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
) -> DiffusersPainter:
    """Load a text-to-image pipeline.

    spec: hub id, or a folder written by diffusers.
    guidance, steps: by default 9.5 and 85, as in SuS-X; few-step models such as SDXL-Turbo need guidance 0 and 1 to 4
        steps.
    size: (width, height), by default the model's own.
    device: by default CUDA, else the CPU.
    precision: by default fp16 on an accelerator and fp32 on the CPU.

    Raises PainterError where diffusers is missing, the model cannot be loaded, does not take texts, or its size is
    unknown.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = precision or ("fp32" if device.type == "cpu" else "fp16")
    pipeline = _load(spec, DTYPES[precision]).to(device)
    pipeline.set_progress_bar_config(disable=True)
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        raise PainterError(f"{spec!r} is a {type(pipeline).__name__}, which takes no text; give a text-to-image model")
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    settings = {
        "pipeline": type(pipeline).__name__,
        "scheduler": type(pipeline.scheduler).__name__,
        "weights": _digest(denoiser),
        "precision": precision,
        "guidance": GUIDANCE if guidance is None else guidance,
        "steps": STEPS if steps is None else steps,
    }
    size = size or _native_size(pipeline, denoiser, spec)
    return DiffusersPainter(spec, {**settings, "size": list(size)}, size, pipeline)


def _load(spec: str, dtype: torch.dtype) -> Any:
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise PainterError(f"painting with {spec!r} needs diffusers; pip install 'rag-clip[synthesis]'") from error
    try:
        return DiffusionPipeline.from_pretrained(spec, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise PainterError(
            f"cannot load {spec!r} ({reason}); give a hub id, or a folder that diffusers' save_pretrained wrote"
        ) from error


def _native_size(pipeline: Any, denoiser: Any, spec: str) -> tuple[int, int]:
    latent = getattr(pipeline, "default_sample_size", None) or getattr(denoiser.config, "sample_size", None)
    if latent is None:
        raise PainterError(f"the image size of {spec!r} is unknown; give its width and height")
    height, width = (latent, latent) if isinstance(latent, int) else latent
    factor = getattr(pipeline, "vae_scale_factor", 1)
    return width * factor, height * factor


def _digest(denoiser: Any) -> str:
    if denoiser is None:
        return ""
    digest = hashlib.sha256()
    for name, value in sorted(denoiser.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
