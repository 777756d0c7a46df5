"""What takes a device works on one that is not the CPU, and waits for its copies (see inputs.twin_device)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

import rag_clip
from inputs.objectives import NAMES, encoder, pairs, pixels
from inputs.photographs import photographs
from inputs.pictures import write_images
from inputs.twin_device import late_copies, twin
from rag_clip.classifiers.heads import HEADS, build_head
from rag_clip.classifiers.match import match
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.models.lane import lane_to
from rag_clip.models.open_clip import load_encoder
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.batches import Examples, Head
from rag_clip.training.objective import Objective
from rag_clip.training.objectives.align import Align
from rag_clip.training.objectives.carft import CarFt
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.filip import Filip
from rag_clip.training.objectives.idea import Idea
from rag_clip.training.objectives.labels import Labels
from rag_clip.training.objectives.nlip import Nlip
from rag_clip.training.objectives.pacl import Pacl
from rag_clip.training.objectives.proto import Proto
from rag_clip.training.objectives.siglip import SigLip
from rag_clip.training.objectives.slip import Slip
from rag_clip.training.towers import Lock

LABELS = LabelSet(NAMES)
JUDGED = ("ridge", "gaussian")  # with the floor, and images that judge, which are alike for all heads


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    with twin() as there:
        yield there


@cache
def there(name: str = "demo") -> Any:
    return load_encoder(name, device="twin")


def test_the_device_is_as_strict_as_a_gpu(device: torch.device) -> None:
    rows = torch.arange(3.0, device=device)
    with pytest.raises(RuntimeError, match="found twin and cpu"):
        rows + torch.ones(3)
    with pytest.raises(RuntimeError, match="numpy"):
        rows.numpy()
    late = torch.empty(3)
    late.copy_(rows, non_blocking=True)
    assert late.isnan().all()
    assert (rows + 1).cpu().tolist() == [1, 2, 3]


def test_a_lane_waits_for_its_copies(device: torch.device) -> None:
    lane = lane_to(device)
    parts = [torch.arange(6, dtype=torch.uint8).view(3, 2), torch.arange(2, dtype=torch.uint8).view(1, 2)]
    before = late_copies()
    fetches = [lane.fetch(lane.send([part + row for part in parts]).float() * 2) for row in range(3)]
    for row, fetch in enumerate(fetches):
        assert fetch().tolist() == [[2 * (value + row) for value in pair] for pair in ([0, 1], [2, 3], [4, 5], [0, 1])]
    assert late_copies() == before + 6


@pytest.mark.parametrize("name", ["demo", "demo:second"])
def test_encoders_embed(name: str) -> None:
    here: Any = load_encoder(name, device="cpu")
    shown = pixels(torch.arange(5))
    near(there(name).encode_pixels(shown).pooled, here.encode_pixels(shown).pooled)
    if name == "demo":
        near(there().encode_text(["a red boat", "a mill"]), here.encode_text(["a red boat", "a mill"]))
        near(there().encode_pixels(shown, patches=True).patches, here.encode_pixels(shown, patches=True).patches)
        words = here.tokenizer(["a red boat", "a mill"])
        near(there().text_tokens(words)[0], here.text_tokens(words)[0])


@pytest.mark.parametrize("name", HEADS)
def test_heads_classify(name: str, device: torch.device) -> None:
    found = {}
    for place, towers in ((device, there()), (torch.device("cpu"), encoder())):
        shots = torch.arange(9) % 3
        images = pixels(torch.arange(9))
        drawn = 0.3 * torch.randn(9, towers.dim, generator=torch.Generator().manual_seed(0))
        texts = towers.encode_text([f"a photo of a {each}." for each in NAMES])
        features = normalize(texts[shots.to(place)] + drawn.to(place), dim=1)
        others = {"second": features.flip(1)}
        support = Support(
            LABELS,
            features,
            torch.eye(3, device=place)[shots.to(place)],
            torch.ones(9, device=place),
            ("shot",) * 9,
            tuple(map(str, range(9))),
            others=others,
            pixels=images if HEADS[name].reads_images else None,
        )
        options: dict[str, Any] = {"schedule": {"epochs": 1}} if "schedule" in HEADS[name].defaults else {}
        judged = None
        if name in JUDGED:
            judged = Validation(Features(features.flip(0)), LABELS, shots.flip(0))
        classifier = build_head(
            name, support, encoder=towers, options=options, validation=judged, floor=name in JUDGED
        )(ZeroShot(LABELS, texts, towers.scale))
        matches = match(classifier, Features(features, others=others))
        found[place.type] = (matches.labels.cpu(), matches.scores.cpu())
    assert torch.equal(found["twin"][0], found["cpu"][0])
    near(found["twin"][1], found["cpu"][1], 1e-4)


@pytest.mark.parametrize(
    "objective",
    [
        Clip(),
        Align(),
        SigLip(),
        Slip(hidden=32, width=16),
        Proto(),
        Filip(),
        Nlip(warm_up=0),
        Idea(),
        Pacl(),
        Labels(),
        CarFt(),
    ],
    ids=lambda objective: type(objective).__name__.lower(),
)
def test_objectives_train(objective: Objective) -> None:
    schedule = replace(FINE_TUNING, steps=1, batch_size=3, rate=1e-3)
    both = Manner(Lock(image=True, text=True)) if isinstance(objective, Pacl) else Manner()
    elsewhere = adapt(there(), examples(objective), objective, schedule=schedule, manner=both)
    here = adapt(encoder(), examples(objective), objective, schedule=schedule, manner=both)
    assert elsewhere.losses == pytest.approx(here.losses, rel=1e-3)
    near(elsewhere.encoder.encode_text(["a red boat"]), here.encoder.encode_text(["a red boat"]), 1e-2)


def examples(objective: Objective) -> Examples:
    """Return pairs; for CAR-FT, with two texts for each class."""
    if not isinstance(objective, CarFt):
        return pairs()
    texts = tuple((f"a photo of a {name}.", f"a {name} at dusk") for name in NAMES)
    weights = torch.stack([encoder().encode_text(group).mean(0) for group in texts])
    return replace(pairs(), head=Head(LABELS, normalize(weights, dim=1), texts))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [*photographs(9), b"no image", *photographs(3)]
    return write_images(
        tmp_path_factory.mktemp("images") / "in.parquet", rows, truth=[NAMES[row % 3] for row in range(13)]
    )


@pytest.mark.parametrize(
    "scoring",
    [rag_clip.Scoring(), rag_clip.Scoring(refine=True)],
    ids=["alone", "refined"],
)
def test_files_are_classified(scoring: Any, images: Path, tmp_path: Path) -> None:
    before, found = late_copies(), []
    for name, towers in (("twin", there()), ("cpu", encoder())):
        prompts = rag_clip.enhance(LABELS, encoder=towers, recipe="templates", report=rag_clip.silent)
        running = rag_clip.Running(0, batch_size=4, report=rag_clip.silent)
        output = tmp_path / f"{name}.parquet"
        summary = rag_clip.classify(
            images, prompts=prompts, output=output, encoder=towers, scoring=scoring, running=running
        )
        found.append(summary.to_polars(["label", "score", "error"]))
    assert late_copies() == before + 8  # of four batches, there and back
    assert found[0].select("label", "error").equals(found[1].select("label", "error"))
    assert found[0]["error"].is_not_null().sum() == 1
    difference = (found[0]["score"] - found[1]["score"]).abs().max()
    assert isinstance(difference, float)
    assert difference < 1e-4


def near(first: torch.Tensor | None, second: torch.Tensor | None, tolerance: float = 1e-5) -> None:
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first.cpu(), second.cpu(), atol=tolerance, rtol=0)
