from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize, pixel_shuffle, pixel_unshuffle

from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import concepts
from rag_clip.demo.diffusion import add_noise, sample, save_schedule, signal_shares
from rag_clip.demo.paint import BATCH, SEED, Examples, backdrop, denoising_loss, draw_batch, train
from rag_clip.demo.painter import DemoPainter, demo_painter
from rag_clip.demo.train import textures
from rag_clip.demo.unet import CONDITION, PATCH, SIDE, Denoiser, load_denoiser, save_denoiser
from rag_clip.models.open_clip import load_encoder
from rag_clip.support.painters import PainterError, load_painter
from rag_clip.testing import ToyEncoder


def random_denoiser() -> Denoiser:
    torch.manual_seed(1)
    return Denoiser().eval().requires_grad_(False)


class Certain(Denoiser):
    """Finds half of the text's first number everywhere, whatever the noise."""

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return (texts[:, :1, None, None] / 2).expand_as(noisy)


def test_noise_covers_the_image_as_the_cosine_schedule_says():
    shares = signal_shares()
    start, later = (np.cos((place + 0.008) / 1.008 * np.pi / 2) ** 2 for place in (0, 0.5))
    assert shares[499].item() == pytest.approx(later / start, rel=1e-4)
    assert bool((shares.diff() < 0).all())
    image, noise = torch.ones(1, 3, 2, 2), torch.full((1, 3, 2, 2), 2.0)
    share = shares[500].item()
    noisy = add_noise(image, noise, torch.tensor([500]))
    assert noisy.flatten().tolist() == pytest.approx([share**0.5 + 2 * (1 - share) ** 0.5] * 12)


def test_sampling_ends_at_what_is_found_moved_by_the_guidance():
    texts = torch.zeros(2, CONDITION)
    texts[:, 0] = torch.tensor([0.5, -0.4])
    painted = sample(Certain(), texts, seeds=[1, 2], steps=4, guidance=3.0)
    expected = torch.tensor([0.75, -0.6]).view(2, 1, 1, 1).expand(2, 3, SIDE, SIDE)
    assert torch.allclose(painted, expected, atol=1e-5)
    with pytest.raises(ValueError, match="steps is 0; give 1 to 1000"):
        sample(Certain(), texts, seeds=[1, 2], steps=0, guidance=1.0)


def test_an_image_depends_on_its_text_and_seed_alone():
    denoiser = random_denoiser()
    texts = torch.randn(3, CONDITION, generator=torch.Generator().manual_seed(2))
    together = sample(denoiser, texts, seeds=[7, 8, 9], steps=3, guidance=2.0)
    alone = sample(denoiser, texts[1:2], seeds=[8], steps=3, guidance=2.0)
    assert torch.allclose(alone[0], together[1], atol=1e-4)
    assert not torch.allclose(together[0], together[2], atol=0.1)


def test_a_denoiser_is_read_as_it_was_written_and_another_shape_refused(tmp_path: Path):
    denoiser = random_denoiser().half().float()
    save_denoiser(denoiser, tmp_path)
    read = load_denoiser(tmp_path)
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in denoiser.state_dict().items())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))
    with pytest.raises(ValueError, match="layers_per_block is 2, not 1; load other models through diffusers"):
        load_denoiser(tmp_path)


def test_diffusers_reads_the_same_folder_and_computes_the_same(tmp_path: Path):
    diffusers = pytest.importorskip("diffusers", reason="needs the extra synthesis")
    save_denoiser(random_denoiser(), tmp_path / "unet")
    save_schedule(tmp_path / "scheduler")
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path / "scheduler")
    assert torch.allclose(scheduler.alphas_cumprod, signal_shares(), atol=1e-6)
    texts = torch.randn(2, CONDITION, generator=torch.Generator().manual_seed(7))
    noise = [torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)]
    values = pixel_unshuffle(torch.stack(noise), PATCH)
    scheduler.set_timesteps(3)
    with torch.no_grad():
        for time in scheduler.timesteps:
            found = unet(values, time, encoder_hidden_states=None, class_labels=texts).sample
            values = scheduler.step(found, time, values, use_clipped_model_output=True).prev_sample
    painted = sample(load_denoiser(tmp_path / "unet"), texts, seeds=[5, 6], steps=3, guidance=1.0)
    assert torch.allclose(pixel_shuffle(values, PATCH), painted, atol=1e-4)


def small_examples() -> Examples:
    """Three nameless designs, and all named ones."""
    drawn = textures([concept.design for concept in concepts()])
    shares = np.array([concept.frequency for concept in concepts()])
    count = 3 + len(drawn)
    marks = torch.arange(count).view(count, 1, 1).expand(count, 4, CONDITION) + 1.0
    return Examples(torch.cat([drawn[:3], drawn]), marks, len(drawn), shares / shares.sum())


def test_batches_are_a_function_of_the_step_and_never_show_the_unseen():
    examples = small_examples()
    images, texts = draw_batch(examples, 3)
    assert torch.equal(images, draw_batch(examples, 3)[0])
    rows = texts[:, 0].long() - 1
    told = rows[rows >= 0]
    assert "unseen" not in {concepts()[row - 3].band for row in told.tolist() if row >= 3}
    assert 0 < int((rows < 0).sum()) < BATCH // 4
    assert images.shape == (BATCH, 3, SIDE, SIDE)
    assert -1 <= images.min() < images.max() <= 1


def test_a_backdrop_shows_the_design_whole_and_a_plain_colour_around_it():
    texture = torch.zeros(1, 4, 72, 72, dtype=torch.uint8)
    texture[:, (0, 3), 18:54, 18:54] = 255
    image = backdrop(texture, seed=1)[0]
    assert torch.allclose(image[:, 16, 16], torch.tensor([1.0, -1.0, -1.0]), atol=1e-5)
    edges = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
    assert torch.equal(edges, edges[:, :1].expand_as(edges))


def test_training_lowers_the_loss():
    examples = small_examples()
    torch.manual_seed(3)
    denoiser = Denoiser()
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr=1e-3)
    images, texts = draw_batch(examples, 0)
    losses = []
    for _ in range(5):
        loss = denoising_loss(denoiser, images[:4], texts[:4], 0)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_the_painter_names_what_decides_its_images(tmp_path: Path):
    save_denoiser(random_denoiser(), tmp_path / "unet")
    painter = demo_painter(ToyEncoder(dim=CONDITION), steps=2, folder=tmp_path)
    assert isinstance(painter, DemoPainter)
    assert {key: painter.settings[key] for key in ("text_encoder", "guidance", "steps")} == {
        "text_encoder": "toy-128",
        "guidance": 2.0,
        "steps": 2,
    }
    first, second = painter.paint(["red", "blue"], seeds=[1, 1])
    assert first.size == second.size == painter.size == (SIDE, SIDE)
    assert first.tobytes() != second.tobytes()
    assert painter.paint([], seeds=[]) == []


def test_the_demo_painter_has_one_size():
    with pytest.raises(PainterError, match="the demo painter paints 32 x 32 pixels; leave size out"):
        load_painter("demo", size=(64, 64))


def test_the_bundled_painter_draws_what_descriptions_say():
    encoder = load_encoder("demo", device="cpu", precision="fp32")
    draw = np.random.default_rng(4)
    shown = [concept for concept in concepts() if concept.band == "unseen"][::6]
    told = [[describe(concept.design, draw) for _ in range(5)] for concept in shown]
    classes = torch.stack([encoder.encode_text(texts[1:]).mean(0) for texts in told])
    images = demo_painter(encoder, steps=10).paint([texts[0] for texts in told], seeds=range(len(told)))
    found = (encoder.encode_images(images).pooled @ normalize(classes, dim=1).T).argmax(1)
    right = (found == torch.arange(len(shown))).float().mean().item()
    assert right > 0.6, f"{right:.0%} of {len(shown)} designs that training never showed are recognised; chance is 5%"


def test_a_step_of_training_writes_a_denoiser_and_leaves_no_checkpoint(tmp_path: Path):
    encoder = load_encoder("demo", device="cpu", precision="fp32")
    train(tmp_path, encoder=encoder, steps=1, examples=replace(small_examples(), batch=8))
    header, line = [json.loads(line) for line in (tmp_path / "train.log").read_text().splitlines()]
    assert (header["batch"], line["step"]) == (8, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scheduler", "train.log", "unet"]
    torch.manual_seed(SEED)
    begin, mean = Denoiser().half().state_dict(), load_denoiser(tmp_path / "unet").state_dict()
    assert not all(torch.equal(mean[name], value.float()) for name, value in begin.items())
    assert all(torch.allclose(mean[name], value.float(), rtol=2e-3, atol=1e-4) for name, value in begin.items())
