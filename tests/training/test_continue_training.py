from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from rag_clip.data import LabelSet
from rag_clip.models.open_clip import load_encoder
from rag_clip.progress import ProgressEvent
from rag_clip.training.checkpoint import Checkpoint
from rag_clip.training.continue_training import checkpoint, continue_training
from rag_clip.training.loop import Schedule


@pytest.fixture(scope="module")
def further():
    """The demo encoder, and what further training on eight noise images of two names makes of it."""
    encoder = load_encoder("demo", device="cpu", precision="fp32")
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 48, 48), np.uint8))
    targets = torch.tensor([0, 1] * 4)
    labels = LabelSet(("Brai", "flag"))
    schedule = Schedule(6, 4, 3e-3, "sgd", weight_decay=0)
    trained = continue_training(encoder, pixels.__getitem__, targets, labels=labels, schedule=schedule)
    return encoder, trained, pixels, targets


def test_further_training_fits_the_images_and_leaves_the_first_encoder_alone(further):
    encoder, trained, pixels, targets = further
    fresh = load_encoder("demo", device="cpu", precision="fp32")
    losses = {}
    for name, each in (("before", encoder), ("after", trained), ("fresh", fresh)):
        texts = each.encode_text(["a photo of a Brai.", "a photo of a flag."])
        losses[name] = float(cross_entropy(each.scale * each.encode_pixels(pixels).pooled @ texts.T, targets))
    assert losses["before"] == losses["fresh"]
    assert losses["after"] < 0.9 * losses["before"]
    moved = [
        not torch.equal(new, old)
        for new, old in zip(trained.model.parameters(), encoder.model.parameters(), strict=True)
    ]
    assert sum(moved) > 0.9 * len(moved)
    assert torch.equal(trained.model.logit_scale, encoder.model.logit_scale)
    assert not any(weight.requires_grad for weight in trained.model.parameters())


def test_the_trained_encoder_has_a_fingerprint_of_its_own_and_loads_from_its_checkpoint(further, tmp_path):
    encoder, trained, pixels, _ = further
    assert not trained.fingerprint.agrees_with(encoder.fingerprint)
    path = tmp_path / "further.safetensors"
    path.write_bytes(checkpoint(trained))
    for name in ("open_clip_config.json", "bpe.txt.gz"):
        (tmp_path / name).write_bytes((files("rag_clip.demo") / "assets" / "model" / name).read_bytes())
    loaded = load_encoder(str(path), device="cpu", precision="fp32")
    assert loaded.fingerprint.weights == trained.fingerprint.weights
    torch.testing.assert_close(loaded.encode_text(["a kite"]), trained.encode_text(["a kite"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        loaded.encode_pixels(pixels).pooled, trained.encode_pixels(pixels).pooled, rtol=0, atol=1e-6
    )


def test_further_training_that_was_stopped_goes_on_to_the_same_weights(further, tmp_path):
    encoder, trained, pixels, targets = further
    settings: dict[str, Any] = {
        "schedule": Schedule(6, 4, 3e-3, "sgd", weight_decay=0),
        "kept": Checkpoint(tmp_path / "kept", every=4),
    }

    def stop(event: ProgressEvent) -> None:
        if event.done == 2:
            raise KeyboardInterrupt

    labels = LabelSet(("Brai", "flag"))
    with pytest.raises(KeyboardInterrupt):
        continue_training(encoder, pixels.__getitem__, targets, labels=labels, report=stop, **settings)
    with pytest.raises(ValueError, match="kept is the checkpoint of another run: identity is"):
        continue_training(encoder, pixels.__getitem__, targets, labels=LabelSet(("Brai", "die")), **settings)
    events: list[ProgressEvent] = []
    again = continue_training(encoder, pixels.__getitem__, targets, labels=labels, report=events.append, **settings)
    assert [event.done for event in events] == [3, 4, 5, 6]
    assert again.fingerprint.weights == trained.fingerprint.weights
