import numpy as np
import pytest
import torch

from inputs.supports import random_text, unit
from rag_clip.classifiers.novelty import IN_A_GROUP, Novelty, OpenWorld, threshold_of
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import LabelSet

TEXT = random_text(4, 24, scale=30.0)
DRAW = torch.Generator().manual_seed(3)
IMAGES = unit(torch.randn(9, 24, generator=DRAW, dtype=torch.float64))


def test_an_image_between_a_class_and_a_negative_has_half_of_the_novelty() -> None:
    text = ZeroShot(LabelSet(("a",)), torch.tensor([[1.0, 0.0]]), 10.0)
    novelty = Novelty(text, torch.tensor([[0.0, 1.0]]))
    images = unit(torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(
        novelty(images), torch.tensor([0.5, 1 / (1 + np.exp(10)), 1 / (1 + np.exp(-10))]).float()
    )


@pytest.mark.parametrize("count", [1, 100, 361])
def test_equals_the_equation_in_float64_a_group_at_a_time(count: int) -> None:
    negatives = unit(torch.randn(count, 24, generator=DRAW))
    found = Novelty(TEXT, negatives)(IMAGES)
    groups = max(1, round(count / IN_A_GROUP))
    x, t, n = IMAGES.numpy(), TEXT.weights.double().numpy(), negatives.double().numpy()
    known = np.exp(TEXT.scale * x @ t.T).sum(1)
    shares = [known / (known + np.exp(TEXT.scale * x @ n[g::groups].T).sum(1)) for g in range(groups)]
    torch.testing.assert_close(found, torch.from_numpy(1 - np.mean(shares, axis=0)).float(), rtol=1e-5, atol=1e-6)
    assert [len(n[g::groups]) for g in range(groups)] == pytest.approx([count / groups] * groups, abs=1)


def test_the_order_of_classes_and_the_batch_change_nothing() -> None:
    negatives = unit(torch.randn(240, 24, generator=DRAW))
    moved = ZeroShot(LabelSet(("d", "c", "b", "a")), TEXT.weights.flip(0), TEXT.scale)
    whole = Novelty(TEXT, negatives)(IMAGES)
    torch.testing.assert_close(Novelty(moved, negatives)(IMAGES), whole)
    parts = torch.cat([Novelty(TEXT, negatives)(IMAGES[rows]) for rows in (slice(4), slice(4, None))])
    torch.testing.assert_close(parts, whole)
    assert Novelty(TEXT, negatives)(IMAGES[:0]).shape == (0,)


def test_the_threshold_keeps_95_percent_and_few_images_all() -> None:
    values = torch.arange(100.0) / 100
    assert int((values <= threshold_of(values)).sum()) == 96
    assert threshold_of(values[:7]) == pytest.approx(0.06)


def test_settings_without_negatives_or_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no negatives"):
        OpenWorld(())
    with pytest.raises(ValueError, match=r"threshold of novelty is 1.5; give a number from 0 to 1"):
        OpenWorld(("sea",), threshold=1.5)
    assert OpenWorld("index", "s.parquet").places == ("index", "s.parquet")
