"""NLIP: numbers by hand, limits, what it takes for noise, and its written captions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from inputs.objectives import (
    CAPTIONS,
    check_objective,
    check_resumed,
    described_pairs,
    encoder,
    equal_losses,
    pairs,
    pixels,
)
from rag_clip.training.adapt import FINE_TUNING, adapt
from rag_clip.training.batches import Batches, Examples
from rag_clip.training.captioner import END, Captioner, frequent_words
from rag_clip.training.episode import whole_batches
from rag_clip.training.objective import Setting
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.nlip import Nlip, harmonised, write_captions
from rag_clip.training.towers import unlocked

LOGITS = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1.5, 0, 0.5]], dtype=torch.float64)
COMPLETED = Nlip(warm_up=0, completion=1.0, complete_after=0, width=32, layers=1)


def test_it_keeps_the_contract() -> None:
    check_objective(Nlip())
    check_objective(Nlip(warm_up=0))
    check_objective(COMPLETED)


def test_the_harmonised_loss_has_its_numbers_by_hand() -> None:
    weights = torch.tensor([0, 0.2, 0.5], dtype=torch.float64)
    assert float(harmonised(LOGITS, weights)) == pytest.approx(0.803649, abs=1e-6)
    assert float(harmonised(LOGITS, torch.zeros(3, dtype=torch.float64))) == pytest.approx(0.657816, abs=1e-6)


def test_without_gamma_it_is_clip_bit_for_bit() -> None:
    assert equal_losses(Nlip(gamma=0, warm_up=0), Clip(), noise=0.7)
    assert equal_losses(Nlip(), Clip())


def test_the_loss_is_the_cross_entropy_with_soft_targets() -> None:
    draw = np.random.default_rng(0)
    logits, weights = draw.normal(size=(5, 5)) * 3, draw.random(5)
    targets = np.where(np.eye(5, dtype=bool), 1 - weights[:, None], weights[:, None] / 4)
    rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    columns = logits.T - np.log(np.exp(logits.T).sum(1, keepdims=True))
    wanted = -(targets * (rows + columns)).sum() / 10
    assert float(harmonised(torch.from_numpy(logits), torch.from_numpy(weights))) == pytest.approx(wanted, abs=1e-12)


def test_weight_is_spread_over_negatives_alone() -> None:
    same = torch.eye(3, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    weights = torch.tensor([0.4, 0, 0], dtype=torch.float64)
    first = LOGITS[0, :2].log_softmax(0), LOGITS[:2, 0].log_softmax(0)  # pairs 0 and 2 do not see each other
    others = [LOGITS[1].log_softmax(0)[1], LOGITS[2, 1:].log_softmax(0)[1]]
    others += [LOGITS[:, 1].log_softmax(0)[1], LOGITS[1:, 2].log_softmax(0)[1]]
    wanted = -(sum(0.6 * part[0] + 0.4 * part[1] for part in first) + sum(others)) / 6
    assert float(harmonised(LOGITS, weights, same)) == pytest.approx(float(wanted), abs=1e-12)
    alone = harmonised(LOGITS[:1, :1], torch.tensor([0.5], dtype=torch.float64))
    assert float(alone) == 0


def test_wrong_captions_are_recognised_before_an_epoch() -> None:
    """On pairs that the encoder knows, four of ten captions are swapped."""
    examples, wrong = _known_pairs()
    loss = _loss(Nlip(warm_up=1), examples)
    loss.begin_epoch(0, torch.arange(len(examples)))
    assert not loss.noise.any()
    loss.begin_epoch(1, torch.arange(len(examples)))
    assert loss.noise[wrong].mean() > 0.8
    assert loss.noise[~wrong].mean() < 0.15
    assert loss.facts == {"mean probability of noise": float(loss.noise.mean())}
    assert loss.towers.model.training
    assert loss.training


def test_each_caption_of_an_image_has_its_own_probability() -> None:
    examples, wrong = _known_pairs()
    single = [text for (text,) in examples.captions]
    doubled = [(text,) if row % 2 else (text, single[row - 7]) for row, text in enumerate(single)]
    loss = _loss(Nlip(warm_up=0), replace(examples, captions=doubled))
    loss.begin_epoch(0, torch.arange(len(examples)))
    second = torch.tensor([False] + [len(texts) > 1 for texts in doubled]).nonzero().flatten()
    others = loss.noise[torch.from_numpy(loss.starts[:-1])[second - 1] + 1]
    assert others.mean() > 0.6
    assert loss.noise[torch.from_numpy(loss.starts[:-1])][~wrong].mean() < 0.2


def test_the_decoder_learns_captions_and_writes_them() -> None:
    loss = _loss(replace(COMPLETED, width=64), pairs())
    loss.begin_epoch(0, torch.arange(6))
    loss.noise.zero_()
    with torch.no_grad():
        (batch,) = whole_batches(loss.setting, torch.arange(6))
        patches, phrases = loss.towers.embed_patches(batch), loss.phrase_vectors[loss.fitting]
    optimiser = torch.optim.Adam(loss.captioner.parameters(), 3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        loss.captioner.loss(patches, phrases, batch.texts, torch.ones(6)).backward()
        optimiser.step()
    rows = torch.tensor([2, 0, 5])
    table = write_captions(loss, rows)
    assert table.to_pylist() == [
        {"row": row, "caption": CAPTIONS[row], "references": [CAPTIONS[row]], "noise": 0.0} for row in rows.tolist()
    ]


def test_written_captions_replace_captions_by_their_noise() -> None:
    loss = _loss(COMPLETED, pairs())
    batch = next(loss.setting.batches(0))
    loss.noise.copy_(torch.tensor([1.0, 0, 1, 0, 0, 0]))
    loss.settings = replace(loss.settings, warm_up=9)  # keeps this noise
    loss.begin_epoch(0, torch.arange(6))
    loss.written[0] = loss.captioner.read(["a green boat" + " x" * 24])[0].where(torch.arange(24) < 3, END)
    loss.written[2] = END  # a caption without words replaces nothing
    completed, noise = loss._complete(batch, loss.noise[batch.rows])
    new = dict(zip(batch.rows.tolist(), completed.texts, strict=True))
    assert new == {**dict(enumerate(CAPTIONS)), 0: "a green boat"}
    assert {row: float(value) for row, value in zip(batch.rows.tolist(), noise, strict=True) if value} == {2: 1}


def test_captions_of_high_noise_teach_the_decoder_nothing() -> None:
    captioner = Captioner(["a", "boat", "mill"], patch_width=5, phrase_width=4, width=32)
    patches, phrases = torch.randn(2, 3, 5), torch.randn(2, 1, 4)
    texts = ["a boat", "mill"]
    whole = [captioner.loss(patches[k : k + 1], phrases[k : k + 1], texts[k : k + 1], torch.ones(1)) for k in (0, 1)]
    assert captioner.loss(patches, phrases, texts, torch.tensor([1.0, 0])).item() == pytest.approx(whole[0].item())
    both = captioner.loss(patches, phrases, texts, torch.ones(2)).item()
    assert both == pytest.approx((3 * whole[0].item() + 2 * whole[1].item()) / 5)  # words and ends


def test_the_decoder_does_not_see_later_words() -> None:
    captioner = Captioner(["a", "boat", "mill"], patch_width=5, phrase_width=4, width=32)
    patches, phrases = torch.randn(1, 3, 5), torch.randn(1, 1, 4)
    first, second = torch.tensor([[1, 3, 4, 5]]), torch.tensor([[1, 3, 5, 5]])
    one, two = (captioner(patches, phrases, numbers) for numbers in (first, second))
    assert torch.allclose(one[:, :2], two[:, :2], atol=1e-6)
    assert not torch.allclose(one[:, 2], two[:, 2], atol=1e-3)


def test_words_come_by_frequency_and_unspaced_scripts_without_gaps() -> None:
    assert frequent_words(["b a", "B c", "a b"], most=2) == ("b", "a")
    words = frequent_words(["红色的旗"], most=9)
    captioner = Captioner(words, patch_width=5, phrase_width=4, width=32)
    assert captioner.text(captioner.read(["红色的旗"])[0]) == "红色的旗"


def test_a_killed_run_ends_with_the_same_weights() -> None:
    check_resumed(Nlip(warm_up=0))
    check_resumed(COMPLETED)


def test_a_run_reports_the_noise_it_found_and_writes_captions() -> None:
    adapted = adapt(encoder(), pairs(), COMPLETED, schedule=replace(FINE_TUNING, steps=2, batch_size=3))
    assert set(adapted.facts) == {"mean probability of noise", "share of written captions"}
    table = write_captions(adapted.loss, torch.tensor([4, 1]))
    assert table.column("references").to_pylist() == [[CAPTIONS[4]], [CAPTIONS[1]]]
    assert table.column_names == ["row", "caption", "references", "noise"]
    assert not any(module.training for module in adapted.encoder.model.modules())


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="gamma is 2"):
        Nlip(gamma=2)
    with pytest.raises(ValueError, match="this run had no decoder"):
        write_captions(_loss(Nlip(), pairs()), torch.arange(2))
    with pytest.raises(ValueError, match="no phrase"):
        _loss(COMPLETED, Examples(pixels, [("12",), ("34",)]))


def _loss(objective: Nlip, examples: Examples) -> Any:
    towers = unlocked(encoder())
    towers.set_modes()
    torch.manual_seed(0)
    return objective.build(towers, Setting(examples, Batches(examples, 64, 0))).train()


def _known_pairs() -> tuple[Examples, torch.Tensor]:
    """Return photographs of concepts with their descriptions, of which four in ten are swapped."""
    examples, rows = described_pairs(160), 64
    texts = [text for (text,) in examples.captions]
    swapped = [*np.roll(np.array(texts[:rows], object), 1).tolist(), *texts[rows:]]
    wrong = torch.arange(len(texts)) < rows
    return replace(examples, captions=[(text,) for text in swapped]), wrong
