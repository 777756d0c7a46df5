from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from inputs.folders import FEATURES, needs_features
from inputs.supports import random_text, unit
from rag_clip.classifiers.hubs import HubBank, correct_hubs
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, Fingerprint, LabelSet, Support
from rag_clip.files.support import write_support
from rag_clip.testing import ToyEncoder

TEXT = random_text(4, 24, scale=30.0)
DRAW = torch.Generator().manual_seed(3)
IMAGES = Features(unit(torch.randn(9, 24, generator=DRAW, dtype=torch.float64)))
BANK = unit(torch.randn(50, 24, generator=DRAW))


def test_equals_the_equation_in_float64_whatever_the_blocks() -> None:
    t, b = TEXT.weights.double().numpy(), BANK.double().numpy()
    offsets = 0.5 * np.log(np.exp(TEXT.scale * b @ t.T).mean(0))
    expected = TEXT(IMAGES) - torch.from_numpy(offsets)
    for blocks in ([BANK], BANK.split(7)):
        torch.testing.assert_close(correct_hubs(TEXT, blocks)(IMAGES), expected, rtol=1e-5, atol=1e-5)


def test_without_weight_it_is_zero_shot_and_no_image_is_refused() -> None:
    assert torch.equal(correct_hubs(TEXT, [BANK], weight=0)(IMAGES), TEXT(IMAGES))
    with pytest.raises(ValueError, match="the bank has no image"):
        correct_hubs(TEXT, [])
    with pytest.raises(ValueError, match="the bank is 3 wide, the prompts 24"):
        correct_hubs(TEXT, [torch.ones(2, 3)])
    with pytest.raises(ValueError, match=r"weight of the hub correction is 2; give a number from 0 to 1"):
        HubBank("bank.parquet", 2)


def test_a_text_near_all_images_of_the_bank_counts_for_less() -> None:
    text = ZeroShot(LabelSet(("hub", "other")), unit(torch.tensor([[1.0, 1.0], [0.0, 1.0]])), 10.0)
    images = Features(unit(torch.tensor([[0.5, 1.0]])))
    assert text(images).argmax(1).tolist() == [0]
    corrected = correct_hubs(text, [unit(torch.tensor([[1.0, 0.2], [1.0, 0.6]]))])
    assert corrected(images).argmax(1).tolist() == [1]
    assert corrected.labels == text.labels


def test_a_support_file_is_read_in_blocks_and_must_be_of_the_encoder(tmp_path: Path) -> None:
    encoder = ToyEncoder(dim=24)
    support = Support(
        TEXT.labels, BANK, torch.eye(4)[torch.arange(50) % 4], torch.ones(50), ("shot",) * 50,
        tuple(map(str, range(50))), {"encoder": asdict(encoder.fingerprint)},
    )  # fmt: skip
    write_support(support, tmp_path / "bank.parquet")
    blocks: Iterator[torch.Tensor] = HubBank(tmp_path / "bank.parquet").read(encoder.fingerprint)
    assert torch.equal(torch.cat(list(blocks)), BANK)
    with pytest.raises(ValueError, match="the support set was made with toy"):
        list(HubBank(tmp_path / "bank.parquet").read(Fingerprint("other", "", "w", "8x8")))
    with pytest.raises(ValueError, match="holds sums of images, and the hub correction needs images"):
        list(HubBank("sums.safetensors").read(encoder.fingerprint))


@needs_features
@pytest.mark.parametrize(("model", "gain"), [("ViTB32", 0.03), ("ViTL14", 0.02)])
def test_half_of_the_images_as_a_bank_help_the_other_half_of_clip(model: str, gain: float) -> None:
    data = np.load(FEATURES / f"whurs19_CLIP_{model}.npz")
    images, texts = (unit(torch.from_numpy(rows.astype(np.float32))) for rows in (data["image"], data["text"][-1]))
    text, labels = ZeroShot(LabelSet(tuple(data["classes"].tolist())), texts, 100.0), torch.from_numpy(data["label"])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    bank, rest = order[: len(order) // 2], order[len(order) // 2 :]
    corrected = correct_hubs(text, [images[bank]])
    right = [(each(Features(images[rest])).argmax(1) == labels[rest]).float().mean() for each in (text, corrected)]
    assert right[1] - right[0] > gain
