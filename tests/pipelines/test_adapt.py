"""`adapt`: a folder that every verb loads, what stays valid, resuming after a kill, and bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from inputs.pairs import write_pairs
from inputs.photographs import photographs
from rag_clip.data import LabelSet
from rag_clip.models.open_clip import load_encoder
from rag_clip.models.towers import TwoTowers
from rag_clip.pipelines.adapt import AdaptSummary, Training, adapt_encoder
from rag_clip.pipelines.running import Running
from rag_clip.prompts.templates import template_prompts
from rag_clip.training.objective_list import OBJECTIVES, load_objective
from rag_clip.training.objectives.nlip import Nlip

NAMES = ("kite", "boat", "lamp", "gate", "drum", "bell", "cart", "well")
SHORT = Training(steps=3, batch_size=4, rate=1e-4)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs with captions and labels."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    return write_pairs(path, photographs(8), [f"a photo of a {name}" for name in NAMES], label=list(NAMES))


def adapt(pairs: Path, output: Path, *, training: Training = SHORT, **asked: object) -> AdaptSummary:
    return adapt_encoder(pairs, output=output, encoder="demo", training=training, running=Running(0), **asked)  # type: ignore[arg-type]


def load(folder: Path) -> TwoTowers:
    encoder = load_encoder(f"local-dir:{folder}", device="cpu")
    assert isinstance(encoder, TwoTowers)
    return encoder


def test_the_folder_is_loaded_with_the_weights_that_were_trained(pairs: Path, tmp_path: Path) -> None:
    summary = adapt(pairs, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapt.json",
        "bpe.txt.gz",
        "loss.png",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    facts = json.loads((tmp_path / "out" / "adapt.json").read_text())
    assert facts["objective"] == "clip"
    assert facts["parent"]["spec"] == "demo"
    assert len(facts["losses"]) == summary.steps == 3
    demo, adapted = load_encoder("demo", device="cpu"), load(tmp_path / "out")
    texts = ["a photo of a kite", "two boats"]
    assert not torch.allclose(demo.encode_text(texts), adapted.encode_text(texts), atol=1e-5)
    assert adapted.encode_text(texts).shape == (2, 128)
    assert summary.image_tower_moved
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_locked_image_tower_keeps_stored_image_vectors_valid(pairs: Path, tmp_path: Path) -> None:
    training = Training("image", steps=3, batch_size=4, rate=1e-3)
    assert not adapt(pairs, tmp_path / "out", training=training).image_tower_moved
    demo, adapted = load_encoder("demo", device="cpu"), load(tmp_path / "out")
    assert adapted.fingerprint.image_part.agrees_with(demo.fingerprint)
    assert not adapted.fingerprint.agrees_with(demo.fingerprint)
    shown = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    assert torch.equal(adapted.encode_pixels(shown).pooled, demo.encode_pixels(shown).pooled)


def test_changed_weights_in_the_folder_do_not_pass_for_the_parents(pairs: Path, tmp_path: Path) -> None:
    training = Training("image", steps=2, batch_size=4)
    adapt(pairs, tmp_path / "out", training=training)
    path = tmp_path / "out" / "open_clip_model.safetensors"
    state = load_file(path)
    state["visual.proj"] += 1
    from safetensors.torch import save_file

    save_file(state, path)
    assert not load(tmp_path / "out").fingerprint.of_images


def test_labelled_images_are_fitted_to_their_prompts(pairs: Path, tmp_path: Path) -> None:
    prompts = template_prompts(LabelSet(NAMES))
    training = Training("text", steps=30, batch_size=8, rate=1e-3, warm_up=0, least_area=1.0)
    summary = adapt(pairs, tmp_path / "out", training=training, objective="labels", prompts=prompts)
    assert summary.last_loss < 0.75 * summary.first_loss
    texts = ["a photo of a kite"]
    demo = load_encoder("demo", device="cpu")
    assert torch.allclose(load(tmp_path / "out").encode_text(texts), demo.encode_text(texts), atol=1e-6)


def test_the_templates_of_prompts_are_the_contexts_of_carft(pairs: Path, tmp_path: Path) -> None:
    prompts = template_prompts(LabelSet(NAMES), templates=["a photo of {}.", "a drawing of {}.", "{} at night."])
    summary = adapt(pairs, tmp_path / "out", objective="carft", prompts=prompts)
    assert summary.facts == {"contexts": 3}
    single = replace(prompts.texts[0][0], weight=1.0)
    uneven = replace(prompts, texts=((single,), *prompts.texts[1:]))
    with pytest.raises(ValueError, match="in the same templates, but 'boat' has 3 texts and 'kite' has 1"):
        adapt(pairs, tmp_path / "no", objective="carft", prompts=uneven)


def test_a_fresh_text_tower_has_a_tokenizer_of_its_own_language(tmp_path: Path) -> None:
    captions = ["一张风筝的照片", "一张小船的照片", "一盏灯", "一扇门"]
    path = write_pairs(tmp_path / "pairs.parquet", photographs(4), captions)
    training = Training("image", "text", 30, steps=3, batch_size=4)
    summary = adapt(path, tmp_path / "out", training=training)
    adapted, demo = load(tmp_path / "out"), load_encoder("demo", device="cpu")
    assert isinstance(demo, TwoTowers)
    assert summary.cut == 0
    assert len(adapted.tokenizer.encode(captions[0])) < len(captions[0].encode())
    assert adapted.tokenizer.decode(adapted.tokenizer.encode(captions[0])).strip() == captions[0]
    assert adapted.fingerprint.image_part.agrees_with(demo.fingerprint)
    shown = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    assert torch.equal(adapted.encode_pixels(shown).pooled, demo.encode_pixels(shown).pooled)


def test_an_image_encoder_without_text_gets_a_text_tower(pairs: Path, tmp_path: Path) -> None:
    training = Training("image", "text", steps=3, batch_size=4, like="demo")
    adapt_encoder(pairs, output=tmp_path / "out", encoder="demo:second", training=training, running=Running(0))
    adapted, second = load(tmp_path / "out"), load_encoder("demo:second", device="cpu")
    shown = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(adapted.encode_pixels(shown).pooled, second.encode_pixels(shown).pooled)
    assert adapted.encode_text(["a kite"]).shape == (1, 192)
    assert adapted.fingerprint.image_part.agrees_with(second.fingerprint)
    assert adapted.preprocess == second.preprocess
    again = Training("text", steps=2, batch_size=4)
    adapt_encoder(pairs, output=tmp_path / "again", encoder=adapted, training=again, running=Running(0))
    assert not torch.equal(load(tmp_path / "again").encode_pixels(shown).pooled, second.encode_pixels(shown).pooled)
    with pytest.raises(ValueError, match="like gives a text tower to an encoder without text"):
        adapt(pairs, tmp_path / "no", training=training)


def test_the_decoder_of_nlip_writes_a_caption_for_each_image(pairs: Path, tmp_path: Path) -> None:
    objective = Nlip(completion=1.0, width=32, words=50)
    adapt(pairs, tmp_path / "out", objective=objective)
    rows = pq.read_table(tmp_path / "out" / "captions.parquet").to_pylist()
    assert [row["row"] for row in rows] == list(range(8))
    assert [row["references"] for row in rows] == [[f"a photo of a {name}"] for name in NAMES]
    assert set(" ".join(row["caption"] for row in rows).split()) <= {"a", "photo", "of", *NAMES}
    adapt(pairs, tmp_path / "out")
    assert not (tmp_path / "out" / "captions.parquet").exists()


def test_long_captions_are_counted(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.parquet", photographs(2), ["short", "a very long caption of many words " * 9])
    assert adapt(path, tmp_path / "out").cut == 1


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(pairs: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; import rag_clip.training.loop as loop; made = loop._update\n"
        "from rag_clip.pipelines.adapt import Training, adapt_encoder; from rag_clip.pipelines.running import Running\n"
        "loop._update = lambda *a: (made(*a), time.sleep(0.5))\n"
        "adapt_encoder(sys.argv[1], output=sys.argv[2], encoder='demo', "
        "training=Training(steps=6, batch_size=4, rate=1e-4, every=1), running=Running(0))"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, str(pairs), str(tmp_path / "killed")])
    while not (tmp_path / "killed.parts" / "checkpoint.pt").exists() and killed.poll() is None:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed").exists()
    training = Training(steps=6, batch_size=4, rate=1e-4, every=1)
    assert adapt(pairs, tmp_path / "killed", training=training).resumed >= 1
    assert adapt(pairs, tmp_path / "whole", training=training).resumed == 0
    whole, resumed = (load_file(tmp_path / name / "open_clip_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not (tmp_path / "killed.parts").exists()


def test_bad_input_is_refused_before_anything_is_written(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prompts = template_prompts(LabelSet(NAMES))
    with pytest.raises(ValueError, match="unknown objective 'clipp'; did you mean clip"):
        adapt(pairs, out, objective="clipp")
    with pytest.raises(ValueError, match="labels learns from labelled images; give the prompts"):
        adapt(pairs, out, objective="labels")
    with pytest.raises(ValueError, match="clip learns from captions and has no use for prompts"):
        adapt(pairs, out, prompts=prompts)
    with pytest.raises(ValueError, match="1 label not among the 7 classes, such as 'well'"):
        adapt(pairs, out, objective="labels", prompts=template_prompts(LabelSet(NAMES[:-1])))
    with pytest.raises(ValueError, match="has no text tower to train through"):
        adapt_encoder(pairs, output=out, encoder="demo:second", running=Running(0))
    with pytest.raises(ValueError, match="the lock is 'pictures'"):
        Training("pictures")
    with pytest.raises(ValueError, match="a vocabulary is learned for a fresh text tower"):
        Training(vocabulary=10)
    bare = tmp_path / "bare.parquet"
    pq.write_table(pa.table({"image": photographs(2)}), bare)
    with pytest.raises(ValueError, match="caption"):
        adapt(bare, out)
    assert not out.exists()


def test_a_model_folder_of_another_program_is_not_replaced(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not empty .* not a model that was adapted"):
        adapt(pairs, folder)
    adapt(pairs, tmp_path / "out", training=Training(steps=1, batch_size=4))
    with pytest.raises(ValueError, match="is one of the inputs"):
        adapt_encoder(pairs, output=tmp_path / "out", encoder=f"local-dir:{tmp_path / 'out'}", running=Running(0))
    assert adapt(pairs, tmp_path / "out", training=Training(steps=2, batch_size=4)).steps == 2


def test_a_loss_that_is_not_finite_says_the_step_and_keeps_the_checkpoint(pairs: Path, tmp_path: Path) -> None:
    training = Training(steps=40, batch_size=8, rate=1e30, warm_up=3, every=1)
    with pytest.raises(ArithmeticError, match=r"the loss is nan in step \d+ of 40; lower the rate .*checkpoint"):
        adapt(pairs, tmp_path / "out", training=training)
    assert (tmp_path / "out.parts" / "checkpoint.pt").exists()
    assert not (tmp_path / "out").exists()


def test_settings_of_an_objective_are_read_from_toml(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("smoothing = 0.2\n")
    assert load_objective("align", tmp_path / "own.toml") == OBJECTIVES["align"].settings(0.2)
    (tmp_path / "own.toml").write_text("smooth = 0.2\n")
    with pytest.raises(ValueError, match=r"own\.toml: unknown key 'smooth'; did you mean smoothing"):
        load_objective("align", tmp_path / "own.toml")
