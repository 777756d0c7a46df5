"""PACL: its number by hand, its limits, and that only its match moves where both towers are locked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from inputs.objectives import build, check_objective, encoder, pairs, pixels
from rag_clip.models.patch_match import compare
from rag_clip.training.adapt import FINE_TUNING, Manner, adapt
from rag_clip.training.contrast import info_nce
from rag_clip.training.objective import Objective
from rag_clip.training.objectives.pacl import Pacl
from rag_clip.training.towers import Lock

BOTH = Lock(image=True, text=True)


def test_pacl_keeps_the_contract_of_objectives() -> None:
    check_objective(Pacl())


def test_the_loss_has_its_number_by_hand() -> None:
    patches = normalize(torch.tensor([[[1.0, 0], [0, 1]], [[1, 1], [-1, 0]]], dtype=torch.float64), dim=-1)
    similarities = compare(patches, torch.eye(2, dtype=torch.float64), 1.0)
    assert float(info_nce(similarities / 0.1)) == pytest.approx(0.339163, abs=1e-6)


def test_training_starts_with_the_untrained_patches() -> None:
    towers, loss, batch = build(Pacl(beta=4.0), lock=BOTH)
    shown = towers.encoder.encode_pixels(batch.views[0], patches=True)
    texts = towers.encoder.encode_text(list(batch.texts))
    assert shown.patches is not None
    lengths = (towers.encoder.patch_tokens(batch.views[0]) @ towers.model.visual.proj).norm(dim=-1, keepdim=True)
    wanted = info_nce(compare(shown.patches * lengths, texts, 4.0) / 0.1)
    assert loss(batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_only_the_match_moves_and_it_is_exported() -> None:
    schedule = replace(FINE_TUNING, steps=6, batch_size=6, rate=1e-2)
    adapted = adapt(encoder(), pairs(), Pacl(hidden=16), schedule=schedule, manner=Manner(BOTH))
    before = encoder().model.state_dict()
    assert all(torch.equal(before[name].float(), values) for name, values in adapted.encoder.model.state_dict().items())
    assert adapted.kind == "patches"
    assert {name: tuple(values.shape) for name, values in adapted.match.items()} == {
        "projection": (128, 128),
        "hidden": (128, 16),
        "output": (16, 128),
        "beta": (),
    }
    assert adapted.match["output"].any()
    assert adapted.losses[-1] < adapted.losses[0]


def test_kept_tokens_give_the_loss_of_the_pixels() -> None:
    schedule = replace(FINE_TUNING, steps=1, batch_size=6)
    adapted = adapt(encoder(), pairs(), Pacl(), schedule=schedule, manner=Manner(BOTH))
    towers, loss, batch = build(Pacl(), lock=BOTH)
    rows = torch.arange(6)
    whole = replace(batch, rows=rows, views=pixels(rows)[None], texts=tuple(each[0] for each in pairs().captions))
    assert towers.scale.requires_grad is False
    assert adapted.losses[0] == pytest.approx(loss(whole).item(), abs=2e-3)  # tokens are kept in half precision


@pytest.mark.parametrize("settings", [{"beta": 0.0}, {"temperature": -1.0}, {"hidden": 0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give a number above 0"):
        Pacl(**settings)  # type: ignore[arg-type]


def test_pacl_is_an_objective() -> None:
    objective: Objective = Pacl()
    assert objective.needs.patches
