"""ProtoCLIP: numbers by hand, its limit, an independent formulation of an episode, and resuming."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from inputs.objectives import CAPTIONS, build, check_objective, check_resumed, encoder, equal_losses, pairs
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.proto import Proto, predict_clusters, soft_targets
from rag_clip.training.towers import Lock

SMALL = Proto(warm_up=0, share=2, hidden=32, width=16)


def test_it_keeps_the_contract() -> None:
    check_objective(SMALL)
    check_objective(Proto(prototypes=0, warm_up=0, share=2, hidden=16))


def test_the_prediction_of_clusters_has_its_numbers_by_hand() -> None:
    def rows(*values: tuple[float, float]) -> torch.Tensor:
        return normalize(torch.tensor(values, dtype=torch.float64), dim=-1)

    prototypes, features = rows((1, 0), (0, 1), (-1, 0)), rows((1, 1), (-1, 0.2))
    means, labels, full = rows((1, 0), (0.8, 0.6), (0, 1)), torch.tensor([0, 2]), torch.ones(3, dtype=torch.bool)
    logits = features @ prototypes.T / 0.07
    for temperature, wanted in ((0.01, 0.346580), (0.1, 0.448387)):
        targets = soft_targets(means, labels, temperature=temperature, full=full)
        assert float(predict_clusters(logits, targets, full)) == pytest.approx(wanted, abs=1e-6)


def test_clusters_without_rows_are_left_out() -> None:
    full = torch.tensor([True, True, False])
    means, logits = torch.eye(3, dtype=torch.float64), torch.tensor([[1.0, 2, 30], [0, 1, 50]], dtype=torch.float64)
    targets = soft_targets(means, torch.tensor([0, 1]), temperature=0.5, full=full)
    assert targets[:, 2].tolist() == [0, 0]
    wanted = -(targets[:, :2] * logits[:, :2].log_softmax(1)).sum(1).mean()
    assert float(predict_clusters(logits, targets, full)) == pytest.approx(float(wanted), abs=1e-12)


def test_without_prototypes_and_teacher_it_is_clip_bit_for_bit() -> None:
    assert equal_losses(Proto(prototypes=0, teacher=0, warm_up=0), Clip())
    assert equal_losses(Proto(share=2, hidden=16), Clip())  # the first episode


def test_an_episode_is_as_written() -> None:
    """The whole loss in NumPy in float64, from the clusters of the episode."""
    towers, loss, batch = build(SMALL)
    rows = torch.arange(6)
    loss.begin_epoch(0, rows)
    labels = loss.labels.numpy()
    loss.eval()  # batch norm as in the episode
    images, texts = (part.detach().double() for part in (towers.embed_images(batch), towers.embed_texts(batch.texts)))
    whole = encoder().encode_pixels(pairs().pixels(rows)).pooled
    both = (whole, encoder().encode_text(CAPTIONS))

    def through(side: int, values: torch.Tensor) -> np.ndarray:
        return normalize(loss.heads[side](values.float()).detach().double(), dim=-1).numpy()

    episode, batched = [through(side, both[side]) for side in (0, 1)], [through(0, images), through(1, texts)]

    def means(values: np.ndarray, by: np.ndarray) -> np.ndarray:
        return np.stack([values[by == each].mean(0) if (by == each).any() else 0 * values[0] for each in range(3)])

    def softmax(logits: np.ndarray, full: np.ndarray) -> np.ndarray:
        values = np.exp(logits) * full
        return values / values.sum(1, keepdims=True)

    place = batch.rows.numpy()
    z = float(towers.scale.detach()) * (images @ texts.T).numpy()
    wanted = -np.mean(np.diag(z) - np.log(np.exp(z).sum(1))) / 2 - np.mean(np.diag(z) - np.log(np.exp(z).sum(0))) / 2
    for side in (0, 1):
        other = labels[1 - side]
        full = np.isin(np.arange(3), other)
        centres = means(episode[1 - side], other)
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        targets = softmax(centres[other[place]] @ centres.T / 0.01, full)
        predicted = softmax(batched[side] @ means(episode[side], other).T / 0.07, full)
        wanted -= (targets[:, full] * np.log(predicted[:, full])).sum(1).mean() / 2
        full = np.isin(np.arange(3), labels[2])
        predicted = softmax(batched[side] @ means(episode[side], labels[2]).T / 0.07, full)
        wanted -= np.log(predicted[np.arange(6), labels[2][place]]).mean() / 2
    assert loss(batch).item() == pytest.approx(wanted, rel=1e-4)


def test_the_teacher_is_the_start_encoder() -> None:
    towers, loss, _ = build(SMALL)
    before = loss._taught(torch.arange(6))
    with torch.no_grad():
        towers.model.text_projection.zero_()
    assert torch.equal(loss._taught(torch.arange(6)), before)
    assert before.shape == (6, 64)
    distances = torch.cdist(encoder().encode_text(CAPTIONS), encoder().encode_text(CAPTIONS))
    assert torch.allclose(torch.cdist(before, before), distances, atol=1e-4)  # six rows have five axes


def test_a_batch_is_trained_with_the_clusters_of_its_own_rows() -> None:
    _, loss, batch = build(SMALL)
    loss.begin_epoch(0, torch.arange(6))
    before = loss(batch).item()
    loss.labels[:, batch.rows[0]] = (loss.labels[:, batch.rows[0]] + 1) % 3
    assert loss(batch).item() != before
    assert loss.facts["coherence of caption clusters"] == pytest.approx(
        float(loss.prototypes[0, 0].norm(dim=-1)[loss.full[1]].mean())
    )


def test_the_scale_of_prototypes_is_at_most_one_hundred() -> None:
    _, loss, batch = build(SMALL)
    loss.begin_epoch(0, batch.rows)
    with torch.no_grad():
        loss.log_scale.fill_(9)
    loss(batch).backward()
    assert loss.log_scale.exp().item() == pytest.approx(100, rel=1e-5)
    assert loss.log_scale.grad.abs() > 0  # so it can come down again


def test_a_killed_run_ends_with_the_same_weights() -> None:
    check_resumed(SMALL)
    check_resumed(Proto(share=2, hidden=32, width=16))


def test_a_locked_image_tower_is_clustered_by_its_kept_features() -> None:
    towers, loss, _ = build(SMALL, lock=Lock(image=True))
    loss.begin_epoch(0, torch.arange(6))
    assert not towers.model.visual.training
    assert loss.full.any(1).all()


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="the weights are -1"):
        Proto(contrast=-1)
    with pytest.raises(ValueError, match="cannot be clustered"):
        Proto(share=0)
