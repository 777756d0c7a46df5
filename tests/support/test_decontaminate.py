from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from candidate_rows import candidates

from rag_clip.support.decontaminate import Known, calibrate_cosine, decontaminate, near_hashes


def known(features: torch.Tensor, phash: list[int]) -> Known:
    names = tuple(f"known{row}" for row in range(len(phash)))
    return Known(names, np.array(phash, np.uint64), torch.nn.functional.normalize(features, dim=1))


def test_copies_are_told_by_bytes_by_hash_and_by_cosine_and_the_images_contained_are_counted():
    test = known(torch.eye(5)[:4], [0xFF << 8, 0xFF << 16, 0xFF << 24, 0xFF << 32])
    features = torch.eye(5)[[4, 4, 2, 4, 2]]
    found = candidates([0, 0, 0, 1, 1], features, phash=[0xFFFF << 40, 0xFF1 << 16, 0xFFF << 44, 0xFFFF << 48, 1])
    found = replace(found, sha256=("known0", "b", "c", "d", "known2"))
    done = decontaminate(found, test, cosine=0.99)
    assert (done.exact, done.perceptual, done.cosine) == (2, 1, 1)
    assert done.clean.tolist() == [3]
    assert (done.images, done.known, done.rate) == (3, 4, 0.75)


def test_hashes_of_one_colour_match_nothing():
    hashes = np.array([0, 1, 0xFFF], np.uint64)
    assert near_hashes(hashes, hashes, 8).tolist() == [[False] * 3, [False, True, False], [False, False, True]]


def test_the_threshold_finds_nearly_all_known_copies_where_different_images_are_far_away():
    test = known(torch.eye(20), [0xFFFF << (2 * row) for row in range(20)])
    angles = torch.linspace(0.0, 0.2, 20)
    copies = torch.stack([test.features * angles.cos()[:, None] + test.features.roll(1, 0) * angles.sin()[:, None]], 1)
    found = calibrate_cosine(test, copies)
    assert found.cosine == pytest.approx(float(np.quantile(angles.double().cos().numpy(), 0.05)), abs=1e-6)
    assert found.recall == pytest.approx(0.95)


def test_the_threshold_stays_above_different_images_even_if_copies_are_missed():
    near = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    test = known(near, [0xFFFF, 0xFFFF << 16, 0xFFFF << 32])
    copies = torch.nn.functional.normalize(torch.tensor([[1.0, 0.6], [1.0, 0.5], [0.6, 1.0]]), dim=1)[:, None]
    found = calibrate_cosine(test, copies)
    assert found.cosine == pytest.approx(float(test.features[0] @ test.features[1]), abs=1e-6)
    assert found.recall == 0


def test_images_with_near_hashes_are_copies_and_not_different_images():
    test = known(torch.tensor([[1.0, 0.0], [1.0, 0.1]]), [0xFFFF, 0xFFFE])
    copies = torch.tensor([[[0.9, 0.19**0.5]]])
    assert calibrate_cosine(test, copies).cosine == pytest.approx(0.9)
    apart = known(test.features, [0xFFFF, 0xFFFF << 32])
    assert calibrate_cosine(apart, copies).cosine == pytest.approx(1.01**-0.5)


def test_what_cannot_be_measured_or_compared_is_refused():
    test = known(torch.eye(2), [1, 2])
    with pytest.raises(ValueError, match="no copies to measure the threshold on"):
        calibrate_cosine(test, torch.zeros(0, 5, 2))
    with pytest.raises(ValueError, match="the cosine of copies is 0"):
        decontaminate(candidates([0], torch.eye(2)[:1]), test, cosine=0)
