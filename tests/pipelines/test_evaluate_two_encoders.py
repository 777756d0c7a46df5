"""Few shots in evaluate of heads that see the images by a second encoder too, on the bundled encoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inputs.pictures import encoded, write_images
from rag_clip.classifiers.como import CoMoFSettings, CoMoSettings
from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.heads import HeadSettings
from rag_clip.classifiers.reuse import Reuse
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.cli import app
from rag_clip.data import LabelSet
from rag_clip.evaluation.image_tasks import ImageTask, read_images
from rag_clip.evaluation.protocol import draw_shots, inner_split
from rag_clip.evaluation.results import Result
from rag_clip.evaluation.runs import read_prompt_files
from rag_clip.evaluation.shot_runs import FewShot, Heads
from rag_clip.evaluation.splits import Train
from rag_clip.files.labels import write_labels
from rag_clip.files.prompts import write_prompts
from rag_clip.images.decoding import Decoding
from rag_clip.metrics.accuracy import is_right
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.running import Running
from rag_clip.prompts.templates import template_prompts

SECOND = "demo:second"
LABELS = LabelSet(("card", "die", "flag"), templates=("a {}",))


def write_pictures(path: Path, *, images: int, seed: int) -> Path:
    """Write `images` grey pictures of each class, whose stripes are 3, 5 and 8 pixels wide, beneath noise."""
    random, pictures = np.random.default_rng(seed), []
    for width in (3, 5, 8):
        for shift in random.integers(0, 16, images):
            stripes = ((np.arange(48) + shift) // width % 2)[None, :, None] * 160
            noisy = (stripes + random.integers(0, 95, (48, 48, 3))).astype(np.uint8)
            pictures.append(encoded(Image.fromarray(noisy)))
    return write_images(path, pictures, label=[name for name in LABELS.names for _ in range(images)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of striped pictures in train and test, its prompts, and the features of both encoders."""
    folder = tmp_path_factory.mktemp("two")
    write_pictures(folder / "train.parquet", images=6, seed=0)
    write_pictures(folder / "test.parquet", images=8, seed=1)
    write_labels(LABELS, folder / "labels.json")
    write_prompts(template_prompts(LABELS), folder / "prompts-plain.parquet")
    (folder / "stripes.toml").write_text(
        'name = "Stripes"\nmetric = "accuracy"\nlabels = "labels.json"\n'
        'splits = { train = "train.parquet", test = "test.parquet" }\n'
    )
    return folder


def measured(folder: Path, few: FewShot) -> tuple[Result, ...]:
    """Return the runs of few shots on the pictures."""
    task = ImageTask("Stripes", (folder / "test.parquet",), LABELS, train=folder / "train.parquet")
    return evaluate(
        [task],
        prompts=read_prompt_files([folder / "prompts-plain.parquet"]),
        output=folder / "r.parquet",
        encoder=load_encoder("demo", device="cpu"),
        running=Running(0),
        reuse=Reuse(features_dir=folder / "features"),
        heads=Heads(few_shot=few, others={SECOND: load_encoder(SECOND, device="cpu")}),
    ).results


def by_hand(folder: Path, settings: HeadSettings, *, validate: bool) -> list[bool]:
    """Return which test pictures a head gets right on the first draw of four shots, put together from the parts."""
    encoder, others = load_encoder("demo", device="cpu"), {SECOND: load_encoder(SECOND, device="cpu")}
    train, test = (
        read_images(
            ImageTask("", (folder / f"{split}.parquet",), LABELS), encoder=encoder, others=others,
            features_dir=folder / "features", decoding=Decoding(0),
        )
        for split in ("train", "test")
    )  # fmt: skip
    drawn = draw_shots(Train(train.features, LABELS, train.targets), shots=4, seed=0)
    drawn, held = inner_split(drawn) if validate else (drawn, None)
    head = settings.build(zero_shot(template_prompts(LABELS), encoder), drawn.support(), validation=held)
    right: list[bool] = is_right(head(test.features), one_label("test set", test.targets)).tolist()
    return right


@pytest.mark.parametrize("validate", [False, True])
def test_heads_of_two_encoders_are_built_on_both_features_of_the_shots(folder: Path, validate: bool) -> None:
    found = measured(folder, FewShot(("como", "como_f"), (4,), seeds=2, validate=validate, floor=False))
    assert [(one.run, one.tier) for one in found] == [
        ("plain", "T0"), ("plain + como, 4 shots", "T0+T3+FS"), ("plain + como_f, 4 shots", "T0+T3+FS"),
    ]  # fmt: skip
    heads: tuple[HeadSettings, ...] = (CoMoSettings(), CoMoFSettings())
    for one, settings in zip(found[1:], heads, strict=True):
        assert one.images is not None
        first = [row["right"] for row in one.images.to_pylist() if row["draw"] == 0]
        assert first == by_hand(folder, settings, validate=validate)
        assert one.settings.head is not None
        assert one.settings.head.others == (SECOND,)
        assert one.main.value >= found[0].main.value
    assert found[1].main.value > found[0].main.value


def test_the_command_measures_a_head_of_two_encoders_on_shots(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = [
        "evaluate", str(folder / "stripes.toml"), "--data", str(folder), "--model", "demo", "--device", "cpu",
        "--prompts", str(folder / "prompts-plain.parquet"), "-o", str(tmp_path / "r.parquet"), "--workers", "0",
        "--features", str(folder / "features"), "--head", "como", "--shots", "2", "all", "--seeds", "2",
    ]  # fmt: skip
    assert app(job, result_action="return_value") == 1
    assert "como needs the images' features by a second encoder too; name one" in capsys.readouterr().err
    assert app([*job, "--second", SECOND], result_action="return_value") in (0, None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  top-1")[0] for line in lines[:3]] == [
        "Stripes | plain [T0]",
        "Stripes | plain + como, 2 shots [T0+T3+FS]",
        "Stripes | plain + como, all shots [T0+T3+FS]",
    ]
