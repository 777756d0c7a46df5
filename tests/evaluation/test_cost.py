"""What training costs: of every head that trains, by the numbers it learned."""

from __future__ import annotations

from math import exp, log10

import pytest
import torch

from rag_clip.classifiers.heads import HEADS, build_head
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import LabelSet, Support
from rag_clip.evaluation.measures import measure_cost
from rag_clip.evaluation.results import Measure
from rag_clip.models.open_clip import load_encoder
from rag_clip.training.loop import Schedule

ENCODER = load_encoder("demo")
LABELS = LabelSet(("cat", "dog", "owl"))
WIDTH = 128  # of the features and of the vectors of a text alike
TEXT = ZeroShot(LABELS, torch.eye(3, WIDTH), 20.0)
SUPPORT = Support(
    LABELS, torch.eye(2, WIDTH), torch.eye(2, 3), torch.ones(2), ("shot",) * 2, ("a", "b"),
    others={"second": torch.eye(2, 5)},
)  # fmt: skip
MAIN = Measure("accuracy", "", 0.8, 0.7, None)
TRAINED = {
    "linear_probe": 2 * (WIDTH + 1),  # of the two classes that have images
    "coop": 16 * WIDTH,
    "ballad": WIDTH * WIDTH,
    "tip_adapter_f": 2 * WIDTH,
    "como_f": 2 * WIDTH + 2 * 5,
}
SHORT = {"schedule": Schedule(epochs=1)}


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if head.trains and not head.reads_images])
def test_a_trained_head_costs_the_numbers_it_learned(name: str) -> None:
    options = SHORT if "schedule" in HEADS[name].defaults else {"rate": 1e-3, "weight_decay": 1e-6}
    classifier = build_head(name, SUPPORT, encoder=ENCODER, options=options)(TEXT)
    share = exp(-log10(TRAINED[name] / 1e8 + 1))
    parameters, efficiency = measure_cost(classifier, MAIN)
    assert parameters == Measure("parameters", "", TRAINED[name])
    assert (efficiency.metric, efficiency.item, efficiency.high) == ("parameter_efficiency", "", None)
    assert (efficiency.value, efficiency.low) == (pytest.approx(0.8 * share), pytest.approx(0.7 * share))


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if not head.trains])
def test_a_head_that_is_only_built_costs_nothing(name: str) -> None:
    assert measure_cost(build_head(name, SUPPORT, encoder=ENCODER)(TEXT), MAIN) == ()
    assert measure_cost(TEXT, MAIN) == ()
