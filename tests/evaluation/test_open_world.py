import numpy as np
import pytest
import torch

from inputs.supports import random_text, unit
from rag_clip.classifiers.novelty import Novelty
from rag_clip.evaluation.open_world import known_scores
from rag_clip.metrics.ranking import false_positive_rate, roc_auc

DRAW = torch.Generator().manual_seed(0)


def test_the_ways_of_telling_are_those_of_their_equations() -> None:
    text, images = random_text(4, 16, scale=10.0), unit(torch.randn(6, 16, generator=DRAW))
    negatives = unit(torch.randn(300, 16, generator=DRAW))
    found = known_scores(text, negatives, images)
    logits = 10 * images @ text.weights.T
    torch.testing.assert_close(found["maximum logit"], logits.max(1).values)
    torch.testing.assert_close(found["maximum softmax (MCM)"], logits.exp().max(1).values / logits.exp().sum(1))
    others = (10 * images @ negatives.T).exp().sum(1)
    torch.testing.assert_close(found["NegLabel, all at once"], logits.exp().sum(1) / (logits.exp().sum(1) + others))
    torch.testing.assert_close(found[""], 1 - Novelty(text, negatives)(images))
    assert (found[""] - found["NegLabel, all at once"]).abs().max() > 0.01


def test_the_false_positive_rate_by_hand() -> None:
    scores = torch.cat([torch.arange(20.0), torch.tensor([0.5, 1.0, 3.0, -1.0])])
    positive = torch.arange(24) < 20
    assert false_positive_rate(scores, positive) == 0.5  # the threshold is 1, which 19 of 20 reach
    assert false_positive_rate(scores, positive, recall=1) == 0.75
    assert false_positive_rate(scores, positive, recall=0.05) == 0
    with pytest.raises(ValueError, match="the recall is 0; give a share above 0"):
        false_positive_rate(scores, positive, recall=0)
    with pytest.raises(ValueError, match="needs negatives"):
        false_positive_rate(scores[:20], positive[:20])


@pytest.mark.parametrize("seed", range(4))
def test_auc_and_fpr95_equal_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = torch.Generator().manual_seed(seed)
    positive = torch.rand(200, generator=draw) < 0.6
    scores = (torch.randn(200, generator=draw, dtype=torch.float64) + positive).mul(4).round()  # with ties
    assert roc_auc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive.numpy(), scores.numpy()))
    false, true, _ = metrics.roc_curve(positive.numpy(), scores.numpy(), drop_intermediate=False)
    assert false_positive_rate(scores, positive) == pytest.approx(float(false[np.argmax(true >= 0.95)]))
