"""CLIP, ALIGN and SigLIP: numbers by hand, limits, and the contract of objectives."""

from __future__ import annotations

import pytest
import torch

from inputs.objectives import build, check_objective
from rag_clip.training.contrast import info_nce
from rag_clip.training.objective import Objective
from rag_clip.training.objectives.align import Align, smoothed
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.labels import Labels
from rag_clip.training.objectives.siglip import SigLip, sigmoid_loss

LOGITS = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1.5, 0, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize("objective", [Clip(), Align(), SigLip(), Labels(), Labels(head="texts")])
def test_objectives_keep_their_contract(objective: Objective) -> None:
    check_objective(objective)


def test_the_contrastive_loss_has_its_number_by_hand() -> None:
    assert float(info_nce(LOGITS)) == pytest.approx(0.657816, abs=1e-6)


def test_equal_pairs_are_no_negatives() -> None:
    same = torch.zeros(3, 3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    rows = -(2 - torch.tensor([2.0, 0]).logsumexp(0)) - (3 - torch.tensor([3.0, 1]).logsumexp(0))
    rows += -(0.5 - torch.tensor([1.5, 0, 0.5]).logsumexp(0))
    columns = -(2 - torch.tensor([2.0, 1.5]).logsumexp(0)) - (3 - torch.tensor([3.0, 0]).logsumexp(0))
    columns += -(0.5 - torch.tensor([0.0, 1, 0.5]).logsumexp(0))
    assert float(info_nce(LOGITS, same)) == pytest.approx(float(rows + columns) / 6, abs=1e-6)


def test_align_has_its_numbers_by_hand() -> None:
    assert float(smoothed(LOGITS, 0) + smoothed(LOGITS.T, 0)) == pytest.approx(1.315631, abs=1e-6)
    assert float(smoothed(LOGITS, 0.1) + smoothed(LOGITS.T, 0.1)) == pytest.approx(1.482298, abs=1e-6)


def test_align_without_smoothing_is_twice_clip() -> None:
    towers, align, batch = build(Align(0.0))
    clip = Clip().build(towers, None)  # type: ignore[arg-type]
    assert align(batch).item() == pytest.approx(2 * clip(batch).item(), rel=1e-6)


def test_smoothing_spreads_over_the_columns_that_are_not_masked() -> None:
    masked = torch.tensor([[0.0, -torch.inf, 1], [2, 0, 0], [0, 0, 0]], dtype=torch.float64)
    first = torch.tensor([0.0, 1], dtype=torch.float64).log_softmax(0)
    second = torch.tensor([2.0, 0, 0], dtype=torch.float64).log_softmax(0)
    third = torch.zeros(3, dtype=torch.float64).log_softmax(0)
    wanted = -(0.9 * first[0] + 0.1 * first.mean() + 0.9 * second[1] + 0.1 * second.mean() + third[2]) / 3
    assert float(smoothed(masked, 0.1)) == pytest.approx(wanted.item(), abs=1e-12)


def test_siglip_has_its_number_by_hand() -> None:
    cosines = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    assert float(sigmoid_loss(10 * cosines - 10)) == pytest.approx(1.720324, abs=1e-6)


def test_siglip_leaves_equal_pairs_out() -> None:
    logits = torch.tensor([[1.0, 5], [7, 2]], dtype=torch.float64)
    wanted = (torch.nn.functional.softplus(torch.tensor([-1.0, -2], dtype=torch.float64)).sum()) / 2
    assert float(sigmoid_loss(logits, torch.ones(2, 2, dtype=torch.bool))) == pytest.approx(wanted.item(), abs=1e-12)


def test_siglip_starts_where_half_of_the_negatives_have_one_chance_in_n() -> None:
    towers, loss, batch = build(SigLip())
    loss(batch)
    products = (towers.scale * towers.embed_images(batch) @ towers.embed_texts(batch.texts).T).detach()
    others = products[~torch.eye(6, dtype=torch.bool)]
    assert (others + towers.model.logit_bias).exp().median().item() == pytest.approx(1 / 6, rel=1e-4)
    bias = towers.model.logit_bias.item()
    loss(batch)
    assert towers.model.logit_bias.item() == bias
    _, given, batch = build(SigLip(bias=-10.0))
    given(batch)
    assert given.towers.model.logit_bias.item() == -10


def test_labels_are_classified_by_the_frozen_head() -> None:
    towers, loss, batch = build(Labels())
    assert batch.targets is not None
    logits = towers.scale * towers.embed_images(batch) @ loss.weights.T
    wanted = -logits.log_softmax(1)[torch.arange(6), batch.targets].mean()
    assert loss(batch).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_the_head_of_texts_moves_the_text_tower() -> None:
    towers, loss, batch = build(Labels(head="texts"))
    frozen = build(Labels())[1]
    assert loss(batch).item() == pytest.approx(frozen(batch).item(), rel=1e-5)
    loss(batch).backward()
    assert towers.model.token_embedding.weight.grad.any()
