"""What texts alone decide, on classes and names whose vectors are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import Features, LabelSet, Prompts, PromptText, SeveralLabels
from rag_clip.evaluation.rival_names import Candidates, CandidateTexts
from rag_clip.evaluation.splits import Test
from rag_clip.evaluation.text_measures import measure_texts
from rag_clip.metrics.geometry import alignment, uniformity
from rag_clip.metrics.stability import swap_synonyms
from rag_clip.metrics.vocabulary import adversarial_names
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder()
LABELS = LabelSet(("red", "green", "blue"), synonyms=(("scarlet", "dark"), (), ()))
PROMPTS = template_prompts(LABELS, templates=("{}", "{} dark"))
TRUTH = torch.tensor([0, 0, 1, 2, 2])


def images() -> Test:
    texts = ["red", "red dark scarlet", "green", "blue", "blue owl owl"]
    return Test(Features(ENCODER.encode_text(texts)), LABELS, TRUTH)


def measured(test: Test, prompts: Prompts, candidates: CandidateTexts | None = None) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for one in measure_texts(zero_shot(prompts, ENCODER), test, prompts, ENCODER, candidates):
        found.setdefault(one.metric, {})[one.item] = one.value
    return found


def test_alignment_and_uniformity_are_those_of_the_weights_in_any_order_of_classes() -> None:
    test, weights = images(), zero_shot(PROMPTS, ENCODER).weights
    expected = {"alignment": alignment(test.features.pooled, TRUTH, weights), "uniformity": uniformity(weights)}
    turned = zero_shot(template_prompts(LabelSet(LABELS.names[::-1]), templates=("{}", "{} dark")), ENCODER)
    found = {one.metric: one.value for one in measure_texts(turned, test)}
    assert found == pytest.approx(expected, abs=1e-6)


def test_names_are_put_into_the_templates_of_the_prompts_and_added_to_the_classes() -> None:
    test, names = images(), ("reds", "owl", "green owl", "scarlet", "sky")
    texts = CandidateTexts(Candidates("words.txt", names), ENCODER)
    found = measured(test, PROMPTS, texts)
    others = zero_shot(template_prompts(LabelSet(("owl", "green owl", "sky")), templates=("{}", "{} dark")), ENCODER)
    expected = adversarial_names(
        test.features.pooled,
        TRUTH,
        zero_shot(PROMPTS, ENCODER).weights,
        others.weights,
        speaks=torch.tensor([-1, 1, -1]),
        count=20,
    )
    ranked = [others.labels.names[row] for row in expected.worst.tolist()]
    assert list(found["adversarial_name"].items()) == list(zip(ranked, expected.single_accuracy.tolist(), strict=True))
    assert found["adversarial_name"] == {"owl": 0.8, "green owl": 0.8, "sky": 1.0}
    assert found["adversarial_set"] == {"owl": 0.8}
    assert found["certified"] == {"": expected.certified}


def test_swaps_are_measured_one_by_one_with_their_means() -> None:
    test, weights = images(), zero_shot(PROMPTS, ENCODER).weights
    named = template_prompts(LabelSet(("scarlet", "dark")), templates=("{}", "{} dark"))
    expected = swap_synonyms(
        test.features.pooled, TRUTH, weights, zero_shot(named, ENCODER).weights, torch.tensor([0, 0])
    )
    found = measured(test, PROMPTS)
    assert found["swap_kept"] == pytest.approx({"": float(expected.kept.mean())})
    assert found["swap_accuracy"] == pytest.approx({"": float(expected.accuracy.mean())})
    assert found["swap_recall_before"] == pytest.approx({"": 1.0})
    recalls = dict(zip(("red → scarlet", "red → dark"), expected.recall.tolist(), strict=True))
    assert found["swap_recall"] == pytest.approx({"": float(expected.recall.mean()), **recalls})
    assert min(recalls.values()) < 1


def test_the_context_of_a_class_holds_its_images_when_its_name_is_swapped() -> None:
    context = PromptText("red", 0.9, role="context", evidence="7")
    groups = ((PromptText("red", 0.1), context), (PromptText("green", 1.0),), (PromptText("blue", 1.0),))
    assert measured(images(), Prompts(LABELS, groups))["swap_recall"] == {
        "": 1.0, "red → scarlet": 1.0, "red → dark": 1.0,
    }  # fmt: skip


def test_synonyms_of_the_task_count_where_the_prompts_know_none() -> None:
    bare = template_prompts(LabelSet(LABELS.names), templates=("{}", "{} dark"))
    assert measured(images(), bare) == measured(images(), PROMPTS)
    without = Test(images().features, LabelSet(LABELS.names), TRUTH)
    assert set(measured(without, bare)) == {"alignment", "uniformity"}


def test_swaps_of_classes_without_images_have_no_recall() -> None:
    rows = torch.tensor([2, 3])
    test = Test(Features(images().features.pooled[rows]), LABELS, TRUTH[rows])
    assert set(measured(test, PROMPTS)) == {"alignment", "uniformity", "swap_kept", "swap_accuracy"}


def test_one_class_and_several_labels_measure_nothing() -> None:
    test = images()
    alone = zero_shot(PROMPTS, ENCODER)
    assert (
        measure_texts(alone, replace(test, truth=SeveralLabels(torch.ones(5, 3, dtype=torch.bool))), PROMPTS, ENCODER)
        == ()
    )
    one = ZeroShot(LabelSet(("red",)), alone.weights[:1], 20.0)
    assert measure_texts(one, Test(test.features, one.labels, torch.zeros(5, dtype=torch.int64))) == ()
