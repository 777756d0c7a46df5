"""Adapting an encoder: what moves, resuming, gradient caching, masks and bad input."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inputs.objectives import CAPTIONS, encoder, pairs, pixels
from rag_clip.training.adapt import FINE_TUNING, Adapted, Manner, adapt
from rag_clip.training.batches import Batches, Examples, Views, crops
from rag_clip.training.checkpoint import Checkpoint
from rag_clip.training.loop import Schedule, Step
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.labels import Labels
from rag_clip.training.objectives.siglip import SigLip
from rag_clip.training.towers import Lock, read_lock, unlocked

SCHEDULE = replace(FINE_TUNING, steps=4, batch_size=3, rate=1e-3)


def weights(adapted: Adapted) -> dict[str, torch.Tensor]:
    return dict(adapted.encoder.model.state_dict())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], part: str = "") -> bool:
    return all(torch.equal(first[name], second[name]) for name in first if name.startswith(part))


def test_both_towers_move_and_the_parent_does_not() -> None:
    before = {name: values.clone() for name, values in encoder().model.state_dict().items()}
    adapted = adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE)
    assert same(before, encoder().model.state_dict())
    assert not torch.equal(weights(adapted)["visual.proj"], before["visual.proj"].float())
    assert not torch.equal(weights(adapted)["text_projection"], before["text_projection"].float())
    assert adapted.encoder.fingerprint.weights != encoder().fingerprint.weights
    assert adapted.parent == encoder().fingerprint
    assert not any(weight.requires_grad for weight in adapted.encoder.model.parameters())
    assert len(adapted.losses) == 4


def test_stored_image_vectors_stay_valid_if_the_image_tower_is_locked() -> None:
    adapted = adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE, manner=Manner(Lock(image=True)))
    shown = pixels(torch.arange(6))
    assert torch.equal(adapted.encoder.encode_pixels(shown).pooled, encoder().encode_pixels(shown).pooled)
    assert adapted.encoder.fingerprint.image_part.agrees_with(encoder().fingerprint)
    assert not adapted.encoder.fingerprint.agrees_with(encoder().fingerprint)
    moved = adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE).encoder.fingerprint
    assert not moved.image_part.agrees_with(encoder().fingerprint)


def test_a_locked_image_tower_gives_the_same_weights_from_kept_features_and_from_pixels() -> None:
    kept = adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE, manner=Manner(Lock(image=True)))
    batches = Batches(pairs(), 3, 0, Views(0, 1.0))
    towers = unlocked(encoder(), Lock(image=True))
    towers.set_modes()
    for batch in (next(batches(0)), next(batches(3))):
        assert torch.allclose(towers.embed_images(batch), encoder().encode_pixels(pixels(batch.rows)).pooled, atol=1e-6)
    assert kept.losses[0] == pytest.approx(Clip().build(towers, None)(next(batches(0))).item(), rel=1e-5)  # type: ignore[arg-type]


def test_only_the_top_groups_move() -> None:
    before = {name: values.float() for name, values in encoder().model.state_dict().items()}
    after = weights(adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE, manner=Manner(Lock(image=True, groups=2))))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in changed if name.startswith("visual.")} == {
        name for name in before if name.startswith(("visual.proj", "visual.ln_post", "visual.transformer.resblocks.3."))
    }


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(step: Step) -> None:
        if step.number == 3:
            raise KilledError

    place = Checkpoint(tmp_path / "run.pt", every=1)
    whole = adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE)
    with pytest.raises(KilledError):
        adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE, checkpoint=place, after=kill)
    resumed = adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE, checkpoint=place)
    assert same(weights(whole), weights(resumed))
    assert resumed.losses == whole.losses
    assert (whole.resumed, resumed.resumed) == (0, 2)
    with pytest.raises(ValueError, match="another run"):
        adapt(encoder(), pairs(), Clip(mask_equal=False), schedule=SCHEDULE, checkpoint=place)


def test_chunks_have_the_gradient_of_the_whole_batch() -> None:
    whole = adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE)
    parts = adapt(encoder(), pairs(), Clip(), schedule=SCHEDULE, manner=Manner(chunk=1))
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    for name, values in weights(whole).items():
        assert torch.allclose(values, weights(parts)[name], atol=1e-3), name


def test_more_views_leave_the_first_as_it_is() -> None:
    alone, more = (next(Batches(pairs(), 4, 7, Views(others, 0.5))(2)) for others in (0, 2))
    assert more.views.shape == (3, 4, 3, 48, 48)
    assert torch.equal(alone.views[0], more.views[0])
    assert not torch.equal(more.views[1], more.views[2])


def test_every_epoch_has_all_images_in_its_own_order() -> None:
    batches = Batches(pairs(), 2, 0)
    stream = batches(0)
    first, second = (torch.cat([next(stream).rows for _ in range(3)]) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(6))
    assert first.tolist() != second.tolist()
    assert next(batches(4)).rows.tolist() == second[2:4].tolist()
    assert len(next(Batches(pairs(), 100, 0)(0))) == 6


def test_crops_of_the_whole_area_are_the_images() -> None:
    shown = pixels(torch.arange(3))
    assert torch.equal(crops(shown, least_area=1, seed=[1]), shown)
    flipped = crops(shown, least_area=1, flip=True, seed=[4])
    assert all(torch.equal(new, old) or torch.equal(new, old.flip(-1)) for new, old in zip(flipped, shown, strict=True))


def test_a_crop_shows_the_part_that_its_position_says() -> None:
    ramp = torch.arange(48).mul(5).to(torch.uint8).expand(1, 3, 48, 48)
    cropped = crops(ramp, least_area=0.25, seed=[3])[0, 0, 0].float()
    steps = cropped[8:40].diff()
    assert 2.0 < float(steps.mean()) < 5.0
    assert float(steps.max() - steps.min()) <= 2


def test_equal_captions_are_masked_and_counted() -> None:
    twice = Examples(pixels, [(caption,) for caption in (*CAPTIONS[:5], CAPTIONS[0].upper())])
    adapted = adapt(encoder(), twice, Clip(), schedule=replace(SCHEDULE, batch_size=6))
    assert adapted.masked == pytest.approx(2 / 30)


def test_siglip_saves_a_trained_bias() -> None:
    adapted = adapt(encoder(), pairs(), SigLip(), schedule=SCHEDULE).encoder
    assert adapted.trained_bias
    assert adapted.bias == float(adapted.model.logit_bias) != 0
    assert adapted.config["model_cfg"]["init_logit_bias"] == adapted.bias


def test_the_scale_stays_below_one_hundred() -> None:
    adapted = adapt(encoder(), pairs(), Clip(), schedule=replace(SCHEDULE, rate=5.0, clip=None, steps=8))
    assert 1 <= adapted.encoder.scale <= 100 + 1e-3


def test_what_does_not_fit_is_refused() -> None:
    bare = Examples(pixels, [(caption,) for caption in CAPTIONS])
    with pytest.raises(ValueError, match="images with classes"):
        adapt(encoder(), bare, Labels(), schedule=SCHEDULE)
    classes = Examples(pixels, targets=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="images with captions"):
        adapt(encoder(), classes, Clip(), schedule=SCHEDULE)
    with pytest.raises(ValueError, match="nothing would be trained"):
        adapt(encoder(), pairs(), Labels(), schedule=SCHEDULE, manner=Manner(Lock(True, True)))
    with pytest.raises(ValueError, match="no caption"):
        Examples(pixels, [("one",), ()])
    with pytest.raises(ValueError, match="nothing to train on"):
        Examples(pixels)
    with pytest.raises(ValueError, match="its steps"):
        adapt(encoder(), pairs(), Clip(), schedule=Schedule())
    broken = dataclasses.replace(encoder(), mean=(float("nan"),) * 3)
    with pytest.raises(ArithmeticError, match="in step 1 of 4"):
        adapt(broken, pairs(), Clip(), schedule=SCHEDULE)


def test_locks_are_read_from_their_names() -> None:
    assert read_lock("none") == Lock()
    assert read_lock("image:2") == Lock(image=True, groups=2)
    assert read_lock("both") == Lock(image=True, text=True)
    with pytest.raises(ValueError, match="'image:0'; give none, image, text, both, or image:G"):
        read_lock("image:0")
