from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from inputs.candidates import candidates
from rag_clip.support.decontaminate import Copies, Known, Thresholds, calibrate, decontaminate, near_hashes


def known(features: torch.Tensor, phash: list[int]) -> Known:
    names = tuple(f"known{row}" for row in range(len(phash)))
    return Known(names, np.array(phash, np.uint64), torch.nn.functional.normalize(features, dim=1))


FAR = 0xFFFFFF << 40


def copies(cosines: list[list[float]], bits: int = 0) -> Copies:
    """Originals along the first axis, their copies at the cosines given, with hashes `bits` away."""
    angles = torch.tensor(cosines, dtype=torch.float64).acos()
    made = torch.stack([angles.cos(), angles.sin()], -1)
    originals = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(len(cosines), 1, 2)
    hashes = np.full((len(cosines), 1 + len(cosines[0])), (1 << 30) + (1 << bits) - 1, np.uint64)
    hashes[:, 0] = 1 << 30
    return Copies(torch.cat([originals, made], 1), hashes)


def test_copies_are_told_by_bytes_by_hash_and_by_cosine_and_the_images_contained_are_counted():
    test = known(torch.eye(5)[:4], [0xFF << 8, 0xFF << 16, 0xFF << 24, 0xFF << 32])
    features = torch.stack([*torch.eye(5)[[4, 1, 2, 4, 2, 4]]])
    features[1] += torch.eye(5)[4]
    hashes = [FAR, 0xFF1 << 16, 0xFFF << 44, 0xFFFF << 48, 1, 0xFF << 32]
    found = candidates([0, 0, 0, 1, 1, 1], features, phash=hashes)
    found = replace(found, sha256=("known0", "b", "c", "d", "known2", "f"))
    done = decontaminate(found, test, Thresholds(0.99, 0.7, 1.0))
    assert (done.exact, done.perceptual, done.cosine) == (2, 1, 1)
    assert done.clean.tolist() == [3, 5]
    assert (done.images, done.known, done.rate) == (3, 4, 0.75)


def test_hashes_of_one_colour_match_nothing():
    hashes = np.array([0, 1, 0xFFF], np.uint64)
    assert near_hashes(hashes, hashes, 8).tolist() == [[False] * 3, [False, True, False], [False, False, True]]


def test_thresholds_find_nearly_all_copies_where_different_images_are_far_away():
    cosines = np.linspace(0.8, 0.99, 100).tolist()
    made = copies([[cosine] for cosine in cosines], bits=20)
    test = known(torch.eye(2)[:1], [1 << 30])
    found = calibrate(made, test, candidates([0], torch.eye(2)[1:], phash=[FAR]))
    assert found.alone == pytest.approx(np.quantile(cosines, 0.05))
    assert found.confirming == pytest.approx(np.quantile(cosines, 0.01))
    assert found.recall == pytest.approx(0.95)
    near = calibrate(copies([[cosine] for cosine in cosines], bits=3), test, candidates([0], torch.eye(2)[1:]))
    assert near.recall == pytest.approx(0.99)


def test_the_threshold_without_a_hash_stays_above_different_images():
    test = known(torch.tensor([[1.0, 0.1]]), [1 << 30])
    others = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    found = calibrate(copies([[0.9, 0.8]], bits=20), test, candidates([0, 0, 0], others, phash=[FAR, 1 << 30, FAR]))
    assert found.alone == pytest.approx(1.01**-0.5)
    assert found.recall == 0


def test_identical_images_lie_above_every_threshold():
    found = calibrate(copies([[1.0]]), known(torch.eye(2)[:1], [1]), candidates([], torch.zeros(0, 2)))
    assert found.alone == 1 - 1e-4


def test_nothing_to_measure_on_is_refused():
    with pytest.raises(ValueError, match="no copies to measure the thresholds on"):
        calibrate(copies([[]]), known(torch.eye(2)[:1], [1]), candidates([], torch.zeros(0, 2)))
