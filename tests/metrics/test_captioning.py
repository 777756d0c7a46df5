"""BLEU-4 and CIDEr, by values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rag_clip.metrics.captioning import captioning

pytest.importorskip("pycocoevalcap")


def test_equal_captions_have_the_highest_values() -> None:
    texts = ["a red kite in the sky", "two boats float on a lake", "一只红色的风筝 near a wall"]
    found = captioning(texts, [[text.upper(), "another text"] for text in texts[:2]] + [[texts[2]]])
    assert found.bleu4 == pytest.approx(1, abs=1e-6)
    assert found.cider[2] == pytest.approx(10)


def test_bleu_is_the_mean_of_precisions_with_the_brevity_penalty() -> None:
    # Five words of the reference's seven: every n-gram is right, and the penalty is exp(1 - 14/12).
    found = captioning(["a b c d e", "p q r s t u v"], [["a b c d e f g"], ["p q r s t u v"]])
    assert found.bleu4 == pytest.approx(math.exp(1 - 14 / 12), abs=1e-6)
    # One wrong word of eight: 7/8 words, 5/6 pairs, 3/4 triples and 1/2 quadruples are right.
    found = captioning(["a b c x", "p q r s"], [["a b c d"], ["p q r s"]])
    assert found.bleu4 == pytest.approx((7 / 8 * 5 / 6 * 3 / 4 * 1 / 2) ** 0.25, abs=1e-6)


def test_cider_weighs_words_by_how_few_images_have_them() -> None:
    references = [["the kite"], ["the boat"], ["the lamp"], ["the door"]]
    found = captioning(["the kite", "the lake", "a lamp", "door"], references)
    assert found.cider[1] == 0  # `the` is in every image, `lake` and its pair in none
    # `a`, in no image, weighs as much as `lamp`: a cosine of 1/sqrt(2) for one of four lengths of n-grams.
    assert found.cider[2] == pytest.approx(10 / 4 / math.sqrt(2))
    assert found.cider.argmax() == 0
    assert found.cider.dtype == np.float64


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 1 captions"):
        captioning(["a"], [["a"]])
    with pytest.raises(ValueError, match="the references of 1 images"):
        captioning(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="image 1 has no reference"):
        captioning(["a", "b"], [["a"], []])
