import pytest
import torch

from inputs.folders import needs_features
from inputs.supports import real_shots
from rag_clip.classifiers.gaussian import GaussianSettings
from rag_clip.classifiers.heads import HeadSettings
from rag_clip.classifiers.priming import PrimingSettings
from rag_clip.classifiers.ridge import RidgeSettings
from rag_clip.data import Features


@needs_features
@pytest.mark.parametrize("head", [GaussianSettings(), RidgeSettings(), PrimingSettings()])
def test_images_of_half_the_classes_lift_those_and_leave_the_others_findable(head: HeadSettings):
    text, support, images, labels = real_shots("ViTB32", 4, 0, without=9)
    right = {
        name: (classifier(images).argmax(1) == labels).double()
        for name, classifier in (("text", text), ("head", head.build(text, support)))
    }
    gained = {name: rows[labels >= 9].mean() for name, rows in right.items()}
    others = {name: rows[labels < 9].mean() for name, rows in right.items()}
    assert gained["head"] > gained["text"] + 0.05
    assert others["head"] > others["text"] - 0.05


@needs_features
@pytest.mark.parametrize("head", [GaussianSettings(), RidgeSettings(), PrimingSettings()])
def test_scale_of_the_encoder_does_not_change_the_order_of_classes_at_one_shot(head: HeadSettings):
    text, support, images, _ = real_shots("ViTB32", 1, 0)
    few = Features(images.pooled[:50].double())
    other = type(text)(text.labels, text.weights, 20.0)
    found, again = head.build(text, support)(few), head.build(other, support)(few)
    assert torch.equal(found.argsort(1), again.argsort(1))
