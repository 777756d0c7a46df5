from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from inputs.candidates import candidates
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import LabelSet
from rag_clip.support.concentrate import Concentration, concentrate

CLASSIFIER = ZeroShot(LabelSet(("red", "blue")), torch.eye(6)[:2], scale=10)
LOOSE = Concentration(judge="nothing")
RED, BLUE = [1.0, 0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0, 0]


def spread(rows: list[list[float]]) -> torch.Tensor:
    """Move rows apart in directions the classifier does not look at, so that none is a near copy."""
    extra = torch.nn.functional.normalize(torch.randn(len(rows), 4, generator=torch.Generator().manual_seed(0)), dim=1)
    return torch.tensor(rows) + torch.cat([torch.zeros(len(rows), 2), extra], 1)


def test_images_of_another_class_are_dropped_and_the_agreement_is_reported():
    found = candidates([0, 0, 0, 1, 1], spread([RED, BLUE, RED, BLUE, BLUE]))
    done = concentrate(found, CLASSIFIER)
    assert done.rows.tolist() == [0, 2, 3, 4]
    assert done.agreement == {"red": pytest.approx(2 / 3), "blue": 1.0}
    assert (done.dropped, done.fallen_back) == ({"looks like another class": 1}, ())


def test_a_class_whose_images_hardly_look_like_it_keeps_to_its_text():
    found = candidates([0, 0, 0, 0, 1], spread([RED, BLUE, BLUE, BLUE, BLUE]))
    done = concentrate(found, CLASSIFIER)
    assert done.rows.tolist() == [4]
    assert (done.fallen_back, done.agreement) == (("red",), {"red": 0.25, "blue": 1.0})
    assert done.dropped == {"too few images of the class look like it": 4}
    kept = concentrate(found, CLASSIFIER, Concentration(least_agreement=0))
    assert (kept.rows.tolist(), kept.dropped) == ([0, 4], {"looks like another class": 3})
    assert concentrate(found, CLASSIFIER, LOOSE).rows.tolist() == [0, 1, 2, 3, 4]


def test_images_may_be_judged_by_one_another_where_the_text_knows_nothing():
    first, second = [0, 0, 2.0, 0, 0, 0], [0, 0, 0, 2.0, 0, 0]
    rows = torch.tensor([first, first, second, first, second, second, first])
    rows = rows + 0.3 * torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    found = candidates([0, 0, 0, 0, 1, 1, 1], rows)
    assert concentrate(found, CLASSIFIER).rows.tolist() != [0, 1, 3, 4, 5]
    done = concentrate(found, CLASSIFIER, Concentration(judge="images"))
    assert (done.rows.tolist(), done.dropped) == ([0, 1, 3, 4, 5], {"looks like another class": 2})
    assert done.agreement == {"red": 0.75, "blue": pytest.approx(2 / 3)}
    alone = concentrate(found.take(np.array([0, 4])), CLASSIFIER, Concentration(judge="images"))
    assert alone.rows.tolist() == [0, 1]


def test_noise_near_copies_and_the_limit_are_counted_apart():
    features = spread([RED] * 6)
    features[2] = features[1]
    hashes = [0x1, 0xFFFF, 0xFFFF << 16, 0x3, 0xFFFF << 32, 0xFFFF << 48]
    found = candidates([0] * 6, features, phash=hashes, noise=[0, 0.5, 0, 0, 0.51, np.nan])
    done = concentrate(found, CLASSIFIER, Concentration(limit=2))
    assert done.rows.tolist() == [0, 1]
    assert done.dropped == {
        "the caption is probably wrong": 1,
        "near copy of an image of the class": 2,
        "beyond the limit": 1,
    }


def test_images_of_one_colour_are_copies_by_their_features_alone():
    found = candidates([0, 0, 0], spread([RED] * 3), phash=[0, 0, 0])
    assert concentrate(found, CLASSIFIER).rows.tolist() == [0, 1, 2]


def test_a_near_copy_in_two_classes_stays_where_it_fits_better():
    both = torch.tensor([[0.6, 0.8, 0, 0, 0, 0], [0.6, 0.8, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0]])
    done = concentrate(candidates([0, 1, 0], both), CLASSIFIER, LOOSE)
    assert (done.rows.tolist(), done.dropped) == ([1, 2], {"stands for another class better": 1})


def test_a_source_gives_no_more_than_its_share_of_the_limit():
    found = candidates([0] * 4 + [1], spread([RED] * 4 + [BLUE]), sources=["a", "a", "a", "b", "a"])
    done = concentrate(found, CLASSIFIER, Concentration(limit=4, source_share=0.5))
    assert (done.rows.tolist(), done.dropped) == ([0, 1, 3, 4], {"too many of its source": 1})


def test_no_candidates_are_no_rows():
    done = concentrate(candidates([], torch.zeros(0, 6)), CLASSIFIER)
    assert (done.rows.tolist(), done.dropped, done.agreement) == ([], {}, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "the limit is 0"),
        ({"most_noise": 1.5}, "most_noise is 1.5; give a number from 0 to 1"),
        ({"source_share": -1}, "source_share is -1"),
        ({"judge": "me"}, "unknown judge 'me'; known are text, images, nothing"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Concentration(**settings)


def test_images_of_another_width_are_refused():
    with pytest.raises(ValueError, match="images have 4 numbers, the classifier 6; use one encoder"):
        concentrate(candidates([0], torch.eye(4)[:1]), CLASSIFIER)
