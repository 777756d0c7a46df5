import pytest
import torch
from torch.nn import functional

from rag_clip.classifiers.probe_objective import ONE_LABEL, SEVERAL_LABELS

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])


def test_of_one_label_the_objective_is_cross_entropy_and_accuracy():
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    expected = functional.cross_entropy(LOGITS, targets, reduction="none")
    torch.testing.assert_close(ONE_LABEL.losses(LOGITS, targets), expected)
    assert ONE_LABEL.judgement(LOGITS, targets) == pytest.approx(2 / 3)


def test_of_several_labels_every_class_is_a_question_of_its_own():
    targets = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    right = LOGITS.sigmoid()
    expected = -(targets * right.log() + (1 - targets) * (1 - right).log()).mean(1)
    torch.testing.assert_close(SEVERAL_LABELS.losses(LOGITS, targets), expected)
    # class 0 is first of its ranking: 1; class 1 is first, then ties with a wrong image: 1 to recall 0.5, then 2 / 3
    assert SEVERAL_LABELS.judgement(LOGITS, targets) == pytest.approx((1 + (6 + 5 * 2 / 3) / 11) / 2)
