"""A small task of coloured squares in two groups, and prompts for it, that the tests of evaluate share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inputs.pictures import COLOURS, picture, write_images
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.evaluation.image_tasks import ImageTask
from rag_clip.evaluation.results import Result
from rag_clip.evaluation.runs import PromptFile, read_prompt_files
from rag_clip.files.prompts import write_prompts
from rag_clip.testing import ToyEncoder


@dataclass(frozen=True, slots=True)
class Counting(ToyEncoder):
    """Notes what it encodes."""

    encoded: list[str] = field(default_factory=list)

    def encode_text(self, texts):
        self.encoded.extend(texts)
        return ToyEncoder.encode_text(self, texts)


ENCODER = ToyEncoder()
LABELS = LabelSet(tuple(COLOURS), groups=("warm", "cold", "cold"))
CAPTION = PromptText("sea", 0.9, role="context", source="shop", evidence="7")


def colour_task(folder: Path, *, name: str = "colours", broken: bool = False) -> ImageTask:
    """Write two pictures of each colour, and one that is no image where `broken`."""
    names = [*COLOURS] * 2 + (["red"] if broken else [])
    images = [picture(colour) for colour in names[:6]] + ([b"no image"] if broken else [])
    return ImageTask(name, (write_images(folder / f"{name}.parquet", images, label=names),), LABELS)


def prompt_files(folder: Path) -> list[PromptFile]:
    """Write prompts that name every colour, and ones that take red for blue, with a caption."""
    good = Prompts(LABELS, tuple((PromptText(name, 1.0),) for name in LABELS.names), provenance("templates"))
    unseen, both = (PromptText("sky", 0.1), CAPTION), (PromptText("red blue", 1.0),)
    bad = Prompts(LABELS, (unseen, good.texts[1], both), {**provenance("default"), "index": "captions"})
    for name, prompts in (("good", good), ("bad", bad)):
        write_prompts(prompts, folder / f"prompts-{name}.parquet")
    return read_prompt_files([folder / "prompts-good.parquet", folder / "prompts-bad.parquet"])


def value(result: Result, metric: str) -> float:
    measure = result.get(metric)
    assert measure is not None, metric
    return measure.value


def provenance(method: str) -> dict[str, Any]:
    return {"encoder": asdict(ENCODER.fingerprint), "method": method, "settings": {}, "index": ""}
