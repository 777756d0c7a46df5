"""Synonym swaps: the same as classifying again with the changed name."""

from __future__ import annotations

import pytest
import torch

from rag_clip.metrics.accuracy import accuracy, is_right
from rag_clip.metrics.stability import swap_synonyms


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_a_swap_is_classifying_again_with_the_other_name(classes: int) -> None:
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(classes, 8, generator=draw)
    targets = torch.randint(classes, (90,), generator=draw)
    features = weights[targets] + 2 * torch.randn(90, 8, generator=draw)
    owners = torch.arange(classes).repeat(2)
    synonyms = weights[owners] + torch.randn(len(owners), 8, generator=draw)
    found = swap_synonyms(features, targets, weights, synonyms, owners)
    before = (features @ weights.T).argmax(1)
    assert found.before == pytest.approx(accuracy(features @ weights.T, targets))
    for row, owner in enumerate(owners.tolist()):
        logits = features @ weights.index_copy(0, torch.tensor([owner]), synonyms[row : row + 1]).T
        right = is_right(logits, targets)
        assert float(found.kept[row]) == pytest.approx(float((logits.argmax(1) == before).double().mean()))
        assert float(found.accuracy[row]) == pytest.approx(float(right.double().mean()))
        assert float(found.recall[row]) == pytest.approx(float(right[targets == owner].double().mean()))


def test_the_same_name_changes_nothing() -> None:
    found = swap_synonyms(torch.eye(3), torch.tensor([0, 1, 0]), torch.eye(3), torch.eye(3), torch.arange(3))
    assert found.kept.tolist() == [1.0] * 3
    assert found.accuracy.tolist() == [found.before] * 3 == [2 / 3] * 3
    assert found.recall.tolist()[:2] == found.recall_before.tolist()[:2] == [0.5, 1.0]
    assert found.recall[2].isnan()


def test_a_synonym_that_ties_with_another_name_wins_no_image_of_its_class() -> None:
    found = swap_synonyms(torch.eye(2), torch.arange(2), torch.eye(2), torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    assert (found.before, found.accuracy.tolist(), found.recall.tolist()) == (1.0, [0.5], [0.0])


def test_synonyms_of_no_class_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the 2 classes"):
        swap_synonyms(torch.eye(2), torch.arange(2), torch.eye(2), torch.eye(2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="give one each"):
        swap_synonyms(torch.eye(2), torch.arange(2), torch.eye(2), torch.eye(2), torch.tensor([0]))
    with pytest.raises(ValueError, match="synonym 1 gives logits that are not finite"):
        swap_synonyms(
            torch.eye(2), torch.arange(2), torch.eye(2), torch.tensor([[0.0, 1], [0, torch.inf]]), torch.arange(2)
        )
