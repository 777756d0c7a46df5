from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from inputs.pictures import LightEncoder, encoded, picture, write_images
from rag_clip.data import LabelSet
from rag_clip.files.support import read_support, read_support_images
from rag_clip.images.views import CopyViews, CropViews
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_shots import ShotSettings, support_from_shots
from rag_clip.testing import check_support

LABELS = LabelSet(("red", "green", "blue", "pink"))
ENCODER = LightEncoder()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def speckled(seed: int) -> bytes:
    return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 12, 3), np.uint8)))


def write(path: Path, images: Sequence[object], labels: list[str]) -> Path:
    return write_images(path, images, label=labels)


def test_shots_stand_for_their_classes_and_others_validate(tmp_path: Path):
    names = ["red", "green", "blue"] * 4
    path = write(tmp_path / "a.parquet", [speckled(seed) for seed in range(12)], names)
    held_out = tmp_path / "new" / "validation.parquet"
    summary = support_from_shots(
        [path],
        LABELS,
        output=tmp_path / "s.parquet",
        encoder=ENCODER,
        k=3,
        validation_output=held_out,
        settings=ShotSettings(views=2),
    )
    support = read_support(tmp_path / "s.parquet", encoder=ENCODER.fingerprint)
    check_support(support, LABELS)
    assert (summary.images, summary.classes, summary.missing, summary.validation) == (9, 3, ("pink",), 3)
    assert (summary.short, summary.failed, summary.repeated, summary.reused) == ({}, 0, 0, False)
    assert support.shares.sum(0).tolist() == [3, 3, 3, 0]
    rows = [int(reference.removeprefix(f"{path}#")) for reference in support.references]
    assert [names[row] for row in rows] == [LABELS.names[place] for place in support.shares.argmax(1).tolist()]
    validation = read_support(held_out, encoder=ENCODER.fingerprint)
    check_support(validation, LABELS)
    assert sorted(validation.shares.argmax(1).tolist()) == [0, 1, 2]
    assert not set(validation.references) & set(support.references)
    seen = [opened(speckled(int(reference.removeprefix(f"{path}#")))) for reference in validation.references]
    pixels = torch.from_numpy(np.stack([ENCODER.preprocess(image) for image in seen])).permute(0, 3, 1, 2)
    torch.testing.assert_close(validation.features, ENCODER.encode_pixels(pixels).pooled)
    assert read_support_images(held_out) == [None] * 3


def test_images_are_kept_on_demand_whether_they_lie_in_the_table_or_in_files(tmp_path: Path):
    content = [speckled(seed) for seed in (1, 2, 2, 3)]
    names = ["red", "red", "green", "green"]
    for row, image in enumerate(content):
        (tmp_path / f"{row}.png").write_bytes(image)
    inside = write(tmp_path / "inside.parquet", list(content), names)
    outside = write_images(tmp_path / "outside.parquet", [f"{row}.png" for row in range(4)], pa.string(), label=names)

    def make(path: Path, *, with_images: bool = False) -> list[bytes | None]:
        settings = ShotSettings(views=0, with_images=with_images)
        output = tmp_path / "s.parquet"
        support_from_shots([path], LABELS, output=output, encoder=ENCODER, k=2, settings=settings)
        return read_support_images(output)

    assert make(inside, with_images=True) == make(outside, with_images=True) == [content[0], content[1], content[3]]
    assert make(outside) == [None] * 3
    held_out = tmp_path / "validation.parquet"
    support_from_shots(
        [inside],
        LABELS,
        output=tmp_path / "s.parquet",
        encoder=ENCODER,
        k=1,
        validation_output=held_out,
        settings=ShotSettings(with_images=True),
    )
    drawn = [int(reference.removeprefix(f"{inside}#")) for reference in read_support(held_out).references]
    assert read_support_images(held_out) == [content[row] for row in drawn]


def test_the_feature_of_an_image_is_the_mean_of_its_views(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [speckled(1)], ["red"])
    for views in (0, 3):
        support_from_shots(
            [path],
            LABELS,
            output=tmp_path / "s.parquet",
            encoder=ENCODER,
            k=1,
            settings=ShotSettings(seed=5, views=views),
        )
        made = read_support(tmp_path / "s.parquet").features
        crops = CropViews(ENCODER.preprocess, views, 5)(opened(speckled(1)))
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2)
        expected = torch.nn.functional.normalize(ENCODER.encode_pixels(pixels).pooled.mean(0), dim=0)
        torch.testing.assert_close(made[0], expected)


def test_workers_and_one_process_make_the_same_support(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [speckled(seed) for seed in range(40)], ["red", "green"] * 20)
    for workers in (0, 2):
        support_from_shots(
            [path],
            LABELS,
            output=tmp_path / f"{workers}.parquet",
            encoder=ENCODER,
            k=18,
            running=Running(workers),
            settings=ShotSettings(views=2),
        )
    alone, shared = read_support(tmp_path / "0.parquet"), read_support(tmp_path / "2.parquet")
    assert torch.equal(alone.features, shared.features)
    assert alone.references == shared.references


def test_an_image_labelled_twice_stands_once_for_both_and_a_broken_one_is_counted(tmp_path: Path):
    images = [picture("red"), picture("red"), picture("blue"), b"broken", picture("blue")]
    path = write(tmp_path / "a.parquet", images, ["red", "pink", "blue", "blue", "blue"])
    summary = support_from_shots(
        [path], LABELS, output=tmp_path / "s.parquet", encoder=ENCODER, k=5, settings=ShotSettings(views=0)
    )
    support = read_support(tmp_path / "s.parquet")
    assert support.targets.tolist() == [[0.5, 0, 0, 0.5], [0, 0, 1, 0]]
    assert (summary.images, summary.repeated, summary.failed, summary.missing) == (2, 2, 1, ("green",))
    assert summary.short == {"red": 1, "pink": 1, "blue": 3}


def test_a_support_set_is_made_again_only_where_something_changed(tmp_path: Path):
    first = write(tmp_path / "a.parquet", [picture("red")], ["red"])
    second = write(tmp_path / "b.parquet", [picture("blue")], ["blue"])

    def make(k: int, encoder: LightEncoder = ENCODER) -> bool:
        done = support_from_shots([first, second], LABELS, output=tmp_path / "s.parquet", encoder=encoder, k=k)
        return done.reused

    assert [make(1), make(1), make(2), make(2, LightEncoder(dim=8)), make(2, LightEncoder(dim=8))] == [
        False, True, False, False, True,
    ]  # fmt: skip
    write(second, [picture("green")], ["green"])
    assert make(2, LightEncoder(dim=8)) is False
    assert read_support(tmp_path / "s.parquet").references == (f"{first}#0", f"{second}#0")


def test_images_to_validate_are_counted_with_the_support_and_made_again_only_where_something_changed(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [picture("red"), b"broken", speckled(1)], ["red"] * 3)
    output, held_out = tmp_path / "s.parquet", tmp_path / "v.parquet"

    def make(held_out: Path | None) -> tuple[int, int, int, bool]:
        done = support_from_shots([path], LABELS, output=output, encoder=ENCODER, k=2, validation_output=held_out)
        return done.images + done.validation, done.failed, done.repeated, done.reused

    assert make(held_out) == (2, 1, 0, False)
    before = output.stat().st_mtime_ns, held_out.stat().st_mtime_ns
    assert make(held_out) == (2, 1, 0, True)
    assert (output.stat().st_mtime_ns, held_out.stat().st_mtime_ns) == before
    assert make(None)[3] is True


def test_copies_of_support_images_do_not_validate_and_are_counted(tmp_path: Path):
    output, held_out = tmp_path / "s.parquet", tmp_path / "v.parquet"
    seeds = {"red 1": 1, "red 2": 1, "red 3": 1, "red 4": 1, "green 1": 2, "green 2": 3, "green 3": 4}
    for name, seed in seeds.items():
        (tmp_path / f"{name}.png").write_bytes(speckled(seed))
    places = [*(f"{name}.png" for name in seeds), "gone.png"]
    path = write_images(tmp_path / "a.parquet", places, pa.string(), label=["red"] * 4 + ["green"] * 4)

    def make() -> tuple[int, int, int, int, int]:
        done = support_from_shots([path], LABELS, output=output, encoder=ENCODER, k=2, validation_output=held_out)
        return done.images, done.validation, done.copies, done.repeated, done.failed

    # Two reds and two greens are drawn for either file; reds have the same bytes, and one green is gone.
    images, validation, *rest = made = make()
    assert (images + validation, rest) == (1 + 3, [2, 1, 1])
    assert read_support(output).shares.sum(0).tolist()[0] == 1
    assert read_support(held_out).shares.sum(0).tolist() == [0, validation, 0, 0]
    assert make() == made
    held_out.unlink()
    assert make() == made
    only = write(tmp_path / "c.parquet", [speckled(1)] * 2, ["red"] * 2)
    with pytest.raises(ValueError, match="every image drawn for validation is a copy of a support image"):
        support_from_shots([only], LABELS, output=output, encoder=ENCODER, k=1, validation_output=held_out)


@pytest.mark.parametrize(
    ("images", "label", "settings", "message"),
    [
        ([b"broken"], "red", {}, "no image of 1 drawn can be used; the first says: not an image"),
        ([picture("red")], "grey", {}, "column 'label': 1 label not among the 4 classes, such as 'grey'"),
        ([picture("red")], "red", {"k": 0}, "k is 0"),
        ([picture("red")], "red", {"validation_output": "v.parquet"}, "no image is left for validation"),
        ([picture("red")], "red", {"output": "s.csv"}, "support sets are .parquet files"),
        ([picture("red")], "red", {"validation_output": "v.csv"}, "support sets are .parquet files"),
        (
            [picture("red")],
            "red",
            {"output": "v.parquet", "validation_output": "./v.parquet"},
            "v.parquet are the same place; name two different ones",
        ),
    ],
)
def test_what_makes_no_support_is_refused(
    tmp_path: Path, images: Sequence[object], label: str, settings: dict[str, Any], message: str
):
    path = write(tmp_path / "a.parquet", images, [label])
    asked = {"output": tmp_path / "s.parquet", "k": 1, **settings}
    with pytest.raises(ValueError, match=message):
        support_from_shots([path], LABELS, encoder=ENCODER, **asked)
    assert not (tmp_path / "s.parquet").exists()


def test_a_negative_number_of_views_is_refused():
    with pytest.raises(ValueError, match="views is -1; give 0 for the whole image"):
        ShotSettings(views=-1)


def test_crops_depend_on_the_image_and_the_seed_and_keep_at_least_half_of_it():
    image = opened(speckled(3))
    crops = CropViews(lambda crop: np.asarray(crop), 0)(image)
    assert np.array_equal(crops, np.asarray(image)[None])
    views = CropViews(lambda crop: np.array(crop.size), 50, seed=1)(image)
    assert np.array_equal(views, CropViews(lambda crop: np.array(crop.size), 50, seed=1)(image))
    areas = views.prod(1) / (16 * 12)
    assert areas.min() > 0.45
    assert areas.max() <= 1
    assert len(np.unique(areas)) > 10


def test_copies_are_an_image_and_five_others_of_it():
    image = opened(speckled(4))
    sizes = CopyViews(lambda view: np.array(view.size))(image)
    assert sizes.tolist() == [[12, 16], [6, 8], [24, 32], [12, 16], [12, 16], [10, 14]]
