from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rag_clip.data import LabelSet
from rag_clip.files.support import read_support, read_support_images
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_synthesise import SynthesisedSummary, synthesise_support
from rag_clip.progress import ProgressEvent
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Painter
from rag_clip.support.painters import PainterError
from rag_clip.support.synthesised import Synthesis
from rag_clip.testing import ToyEncoder, check_support

LABELS = LabelSet(("red", "green", "blue"), templates=("{}", "{} paint"))
PROMPTS = template_prompts(LABELS)


@dataclass
class Decorator:
    """Paints the colour that a text names, each seed in another shade; can be told to go wrong."""

    fails_after: int = 10**6
    black: str = ""
    count: int = 0
    sides: tuple[int, int] = (8, 8)
    asked: list[str] = field(default_factory=list)
    name: str = "decorator"
    settings: Mapping[str, Any] = field(default_factory=lambda: {"steps": 1})
    size: tuple[int, int] = (8, 8)

    def paint(self, texts: Sequence[str], *, seeds: Sequence[int]) -> list[Image.Image]:
        if len(self.asked) >= self.fails_after:
            raise RuntimeError("out of paint")
        self.asked += texts
        images = [self._one(text, seed) for text, seed in zip(texts, seeds, strict=True)]
        return images[: len(images) - self.count]

    def _one(self, text: str, seed: int) -> Image.Image:
        colour = next(name for name in LABELS.names if name in text)
        value = 0 if colour == self.black else 150 + seed % 100
        return Image.new("RGB", self.sides, tuple(value if name == colour else 0 for name in LABELS.names))


FEW = Synthesis(per_class=4, keep=2, batch=5)


def synthesise(folder: Path, painter: Painter, **options: Any) -> SynthesisedSummary:
    options = {"settings": FEW, **options}
    return synthesise_support(PROMPTS, output=folder / "s.parquet", encoder=ToyEncoder(), painter=painter, **options)


def test_painted_images_become_a_support_set(tmp_path: Path):
    events: list[ProgressEvent] = []
    summary = synthesise(
        tmp_path, Decorator(), running=Running(report=events.append), settings=replace(FEW, with_images=True)
    )
    support = read_support(tmp_path / "s.parquet", encoder=ToyEncoder().fingerprint)
    check_support(support, LABELS)
    assert support.shares.sum(0).tolist() == [2, 2, 2]
    assert (summary.images, summary.classes, summary.painted, summary.black) == (6, 3, 12, 0)
    assert (summary.missing, summary.agreement) == ((), {"red": 1.0, "green": 1.0, "blue": 1.0})
    assert [(event.done, event.total) for event in events if event.stage == "paint"] == [(5, 12), (10, 12), (12, 12)]
    assert support.provenance["painter"] == {"name": "decorator", "steps": 1}
    assert support.provenance["settings"] == {"per_class": 4, "keep": 2, "wording": "templates", "seed": 0}
    for reference, image in zip(support.references, read_support_images(tmp_path / "s.parquet"), strict=True):
        path, row = reference.split("#")
        kept = pq.read_table(path).to_pylist()[int(row)]
        assert kept["image"] == image
        shade = 150 + kept["seed"] % 100
        assert max(Image.open(io.BytesIO(image or b"")).getpixel((0, 0))) == shade  # type: ignore[arg-type]


def test_a_painter_that_fails_midway_loses_nothing_and_goes_on(tmp_path: Path):
    whole = synthesise(tmp_path / "whole", Decorator())
    with pytest.raises(
        PainterError, match=r"decorator failed after 5 of 12 images \(RuntimeError: out of paint\); tho"
    ):
        synthesise(tmp_path, Decorator(fails_after=5))
    assert not (tmp_path / "s.parquet").exists()
    again = Decorator()
    summary = synthesise(tmp_path, again)
    assert len(again.asked) == 7
    assert (summary.images, summary.agreement) == (whole.images, whole.agreement)
    one, other = (read_support(folder / "s.parquet") for folder in (tmp_path, tmp_path / "whole"))
    assert one.features.tolist() == other.features.tolist()


def test_what_is_painted_is_not_painted_again_for_another_encoder_or_number(tmp_path: Path):
    synthesise(tmp_path, Decorator())
    again = Decorator()
    other = ToyEncoder(dim=16)
    synthesise_support(
        PROMPTS, output=tmp_path / "s.parquet", encoder=other, painter=again, settings=Synthesis(per_class=4, keep=4)
    )
    assert again.asked == []
    assert read_support(tmp_path / "s.parquet", encoder=other.fingerprint).features.shape == (12, 16)
    synthesise(tmp_path, again, settings=replace(FEW, per_class=5))
    assert again.asked == ["red", "green", "blue"]
    synthesise(tmp_path, slower := Decorator(settings={"steps": 2}))
    assert len(slower.asked) == 12


def test_withheld_images_are_dropped_counted_and_their_class_listed(tmp_path: Path):
    summary = synthesise(tmp_path, Decorator(black="green"))
    assert (summary.black, summary.images, summary.missing) == (4, 4, ("green",))
    assert read_support(tmp_path / "s.parquet").missing == ("green",)


@pytest.mark.parametrize(
    ("painter", "message"),
    [
        (Decorator(sides=(8, 9)), "its image for '.*red.*' is 8 x 9 pixels, not 8 x 8"),
        (Decorator(count=1), "it returned 4 images for 5 texts"),
    ],
)
def test_images_of_another_size_or_number_are_refused_and_none_is_kept(tmp_path: Path, painter: Painter, message: str):
    with pytest.raises(PainterError, match=f"decorator failed after 0 of 12 images .ValueError: {message}"):
        synthesise(tmp_path, painter)
    assert list((tmp_path / "s").iterdir()) == []


def test_a_folder_of_something_else_is_named(tmp_path: Path):
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"is not empty \(other\.parquet\) and not a folder of paintings; name a new"):
        synthesise(tmp_path, Decorator(), paintings=tmp_path)
    with pytest.raises(ValueError, match=r"other\.parquet holds no painted images .*; remove it, or name another fold"):
        synthesise(tmp_path, Decorator(), paintings=tmp_path, running=Running(force=True))


def test_numbers_below_one_are_refused_before_anything_is_painted(tmp_path: Path):
    wrong: list[dict[str, Any]] = [{"batch": 0}, {"keep": 0}, {"per_class": 0}]
    for options in wrong:
        with pytest.raises(ValueError, match="at least 1"):
            synthesise(tmp_path, Decorator(), settings=replace(FEW, **options))
    assert list(tmp_path.iterdir()) == []
