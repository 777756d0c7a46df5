from dataclasses import replace
from typing import cast

import pytest
import torch

from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.heads import HEADS, build_head
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, SeveralLabels, Targets, Validation
from rag_clip.evaluation.splits import Test, Train
from rag_clip.models.open_clip import load_encoder

LABELS = LabelSet(("red", "blue"))
ENCODER = load_encoder("demo")
FEATURES = Features(torch.eye(4), ids=("a", "b", "c", "d"))
TARGETS = torch.tensor([0, 1, 1, 0])
TRAIN, TEST = Train(FEATURES, LABELS, TARGETS), Test(FEATURES, LABELS, TARGETS)


def test_train_images_become_shots_of_their_class():
    support = TRAIN.take(torch.tensor([3, 1])).support()
    assert torch.equal(support.features, torch.eye(4)[[3, 1]])
    assert torch.equal(support.shares, torch.eye(2))
    assert (support.origin, support.references, support.relevance.tolist()) == (("shot",) * 2, ("d", "b"), [1.0, 1.0])
    assert torch.equal(one_label("test set", TRAIN.take(TARGETS == 1).targets), torch.tensor([1, 1]))


@pytest.mark.parametrize("name", [*HEADS])
def test_no_head_chooses_by_a_test_set(name: str):
    support = replace(TRAIN.support(), others={"second": torch.eye(4)})
    build = build_head(name, support, encoder=ENCODER, validation=cast(Validation, TEST))
    with pytest.raises(TypeError, match="labels of test images are only for scoring"):
        build(ZeroShot(LABELS, torch.eye(2, 4), 10.0))


def test_nothing_can_be_made_of_a_test_set_that_trains_or_chooses():
    with pytest.raises(TypeError, match="only for scoring"):
        Validation(TEST.features, TEST.labels, TEST.targets)
    with pytest.raises(AttributeError, match="support"):
        TEST.support()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1]), "2 labels for 4 train images; give one per image"),
        (torch.tensor([0, 1, 2, 0]), "train image 2 has class 2 of 2; number the classes from 0"),
        (torch.tensor([0, -1, 2, 0]), "train image 1 has class -1"),
        (torch.ones(4, 2), r"labels of train images are torch.float32 \(4, 2\); give int64"),
        (torch.ones(4, 2, dtype=torch.bool), r"\(4, 2\); give int64 \[n\], or SeveralLabels of bool \[n, 2\] where"),
        (SeveralLabels(torch.ones(4, 3, dtype=torch.bool)), r"torch.bool \(4, 3\); give int64 \[n\], or SeveralLabels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(targets: Targets, message: str):
    with pytest.raises(ValueError, match=message):
        Train(FEATURES, LABELS, targets)


def test_images_may_have_several_labels_each():
    marks = torch.tensor([[True, True], [False, True], [False, False], [True, False]])
    several = SeveralLabels(marks)
    assert len(Test(FEATURES, LABELS, several)) == 4
    support = Train(FEATURES, LABELS, several).take(torch.tensor([1, 0])).support()
    assert torch.equal(support.shares, marks[[1, 0]])
    assert support.several
    with pytest.raises(ValueError, match=r"bool \[n, 2\]"):
        Test(FEATURES, LABELS, SeveralLabels(torch.ones(4, 3, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"labels of validation images are torch.bool \(4, 3\)"):
        Validation(FEATURES, LABELS, SeveralLabels(torch.ones(4, 3, dtype=torch.bool)))
    with pytest.raises(ValueError, match=r"marks of labels are torch.float32 \(4, 2\); give bool \[n, c\]"):
        SeveralLabels(torch.ones(4, 2))
