"""Segmentation of images by texts: masks, background, overlays, failed images, resuming and bad input."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize

from inputs.matched_model import patches_model
from inputs.objectives import encoder
from inputs.pictures import encoded, write_images
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.demo.concepts import concepts
from rag_clip.files.rle import decode_mask
from rag_clip.models.learned_match import patch_match
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.segment import Masks, segment_images
from rag_clip.progress import ProgressEvent
from rag_clip.report.overlays import colour_of

NAMES = tuple(concept.name for concept in concepts()[:40:10])
ALL = Masks(least_share=0)


def prompts() -> Prompts:
    return Prompts(LabelSet(NAMES), tuple((PromptText(f"a photo of {name}", 1.0),) for name in NAMES))


def pictures(sizes: tuple[tuple[int, int], ...] = ((60, 40), (31, 50), (48, 48))) -> list[bytes]:
    """Return images of random blocks of colour, of these widths and heights."""
    draw = np.random.default_rng(3)
    blocks = [Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8)) for _ in sizes]
    return [encoded(block.resize(size, Image.Resampling.NEAREST)) for block, size in zip(blocks, sizes, strict=True)]


def run(images: Any, output: Path, model: Any, **settings: Any) -> Any:
    given = {"prompts": prompts(), "encoder": model, "masks": ALL, "running": Running(0)} | settings
    return segment_images(images, output=output, **given)


def test_masks_are_where_the_patches_say(tmp_path: Path) -> None:
    model = patches_model(tmp_path / "model")
    match = patch_match(model)
    assert match is not None
    source = write_images(tmp_path / "images.parquet", pictures())
    found = run([source], tmp_path / "masks.parquet", model).to_polars()
    weights = zero_shot(prompts(), model).weights
    assert found["label"].n_unique() > 2
    for row, content in enumerate(pictures()):
        picture = Image.open(BytesIO(content))
        squashed = np.array(picture.resize((48, 48), Image.Resampling.BICUBIC))
        tokens = model.patch_tokens(torch.from_numpy(squashed).permute(2, 0, 1)[None])  # [1, 36, D]
        values = tokens @ match.projection + (tokens @ match.hidden).relu() @ match.output
        maps = (normalize(values, dim=-1) @ weights.T)[0].T.view(1, 4, 6, 6)
        large = interpolate(maps, size=picture.size[::-1], mode="bilinear", align_corners=False)[0]
        wanted = large.argmax(0).numpy()
        masks = found.filter(pl.col("row") == row)
        assert masks["height"].to_list() == [picture.height] * len(masks)
        assert masks["width"].to_list() == [picture.width] * len(masks)
        assert masks["share"].sum() == pytest.approx(1)
        assert masks["share"].to_list() == sorted(masks["share"], reverse=True)
        for mask in masks.iter_rows(named=True):
            place = NAMES.index(mask["label"])
            pixels = decode_mask(mask["counts"], (mask["height"], mask["width"]))
            assert np.mean(pixels == (wanted == place)) > 0.99  # torch and Pillow may round a pixel differently
            assert mask["share"] == pytest.approx(pixels.mean(), abs=1e-6)
            assert mask["score"] == pytest.approx(large[place].numpy()[pixels].mean(), abs=1e-3)


def test_uncertain_pixels_are_background(tmp_path: Path) -> None:
    model = patches_model(tmp_path / "model")
    source = write_images(tmp_path / "images.parquet", pictures())
    whole = run([source], tmp_path / "all.parquet", model).to_polars()
    middle = float(whole["score"].median())
    some = run([source], tmp_path / "some.parquet", model, masks=Masks(middle, 0)).to_polars()
    assert 0 < some["share"].sum() < whole["share"].sum()
    assert some.drop_nulls("score")["score"].min() >= middle
    none = run([source], tmp_path / "none.parquet", model, masks=Masks(1.0, 0)).to_polars()
    assert none["row"].to_list() == [0, 1, 2]
    assert none["label"].null_count() == none["error"].null_count() == 3
    assert none["width"].to_list() == [60, 31, 48]


def test_texts_of_the_background_take_pixels(tmp_path: Path) -> None:
    model = patches_model(tmp_path / "model")
    source = write_images(tmp_path / "images.parquet", pictures())
    first, *others = NAMES
    alone = Prompts(LabelSet((first,)), ((PromptText(f"a photo of {first}", 1.0),),))
    behind = Masks([f"a photo of {name}" for name in others], 0)
    named = run([source], tmp_path / "named.parquet", model).to_polars().filter(pl.col("label") == first)
    found = run([source], tmp_path / "behind.parquet", model, prompts=alone, masks=behind).to_polars()
    assert len(named) > 0
    assert found.drop_nulls("label")["counts"].to_list() == named["counts"].to_list()


def test_small_masks_are_left_out(tmp_path: Path) -> None:
    model = patches_model(tmp_path / "model")
    source = write_images(tmp_path / "images.parquet", pictures())
    whole = run([source], tmp_path / "all.parquet", model).to_polars()
    least = float(whole["share"].median())
    large = run([source], tmp_path / "large.parquet", model, masks=Masks(least_share=least)).to_polars()
    assert large.drop_nulls("label")["share"].to_list() == [share for share in whole["share"] if share >= least]


def test_failed_images_keep_their_reason_and_rows_count_over_files(tmp_path: Path) -> None:
    model = patches_model(tmp_path / "model")
    first = write_images(tmp_path / "first.parquet", [pictures()[0], b"no image", None])
    second = write_images(tmp_path / "second.parquet", pictures()[:1])
    summary = run([first, second], tmp_path / "masks.parquet", model)
    found = summary.to_polars()
    assert found["row"].unique(maintain_order=True).to_list() == [0, 1, 2, 3]
    errors = found.filter(pl.col("error").is_not_null())
    assert errors["row"].to_list() == [1, 2]
    assert "the image is null" in errors["error"][1]
    assert (summary.rows, summary.failed) == (4, 2)
    assert summary.masks == found["label"].drop_nulls().len()
    assert summary.classes == dict(found["label"].drop_nulls().value_counts(sort=True).iter_rows())
    assert found.filter(pl.col("row") == 0)["counts"].to_list() == found.filter(pl.col("row") == 3)["counts"].to_list()


def test_files_of_images_keep_their_path(tmp_path: Path) -> None:
    model = patches_model(tmp_path / "model")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "first.png").write_bytes(pictures()[0])
    found = run([tmp_path / "in"], tmp_path / "masks.parquet", model).to_polars()
    assert set(found["path"]) == {str(tmp_path / "in" / "first.png")}


def test_overlays_show_the_masks_in_the_colours_of_the_legend(tmp_path: Path) -> None:
    model = patches_model(tmp_path / "model")
    white = encoded(Image.new("RGB", (60, 40), "white"))
    source = write_images(tmp_path / "images.parquet", [white, b"no image"])
    summary = run([source], tmp_path / "masks.parquet", model, overlays=tmp_path / "overlays")
    assert [path.name for path in (tmp_path / "overlays").iterdir()] == ["000000-masks.png"]
    drawn = np.array(Image.open(tmp_path / "overlays" / "000000-masks.png"))
    for mask in summary.to_polars().drop_nulls("label").iter_rows(named=True):
        pixels = decode_mask(mask["counts"], (40, 60))
        half = [round(0.5 * 255 + 0.5 * part) for part in colour_of(NAMES.index(mask["label"]))]
        assert np.abs(drawn[:40, :60][pixels].astype(int) - half).max() <= 1


def test_overlays_of_a_former_run_go_and_pictures_of_others_stay(tmp_path: Path) -> None:
    model, folder = patches_model(tmp_path / "model"), tmp_path / "overlays"
    for count, left in ((3, [0, 1, 2]), (1, [0])):
        source = write_images(tmp_path / f"{count}.parquet", pictures()[:count])
        run([source], tmp_path / "masks.parquet", model, overlays=folder)
        assert sorted(path.name for path in folder.iterdir()) == [f"{row:06d}-masks.png" for row in left]
    mine = folder / "000000.png"  # as many data sets name their pictures
    mine.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"is not empty \(000000.png\) and not a folder of overlays"):
        run([source], tmp_path / "masks.parquet", model, overlays=folder)
    run([source], tmp_path / "masks.parquet", model, overlays=folder, running=Running(0, force=True))
    assert mine.read_bytes() == b"mine"


def test_a_run_with_other_settings_does_not_go_on_from_finished_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = patches_model(tmp_path / "model"), write_images(tmp_path / "images.parquet", pictures())
    first, *_ = NAMES
    other = Prompts(LabelSet(NAMES), tuple((PromptText(f"no {name}", 1.0),) for name in NAMES))
    runs: list[dict[str, Any]] = [
        {},
        {"masks": Masks(0.9, 0)},
        {"masks": Masks([f"a photo of {first}"], 0)},
        {"masks": Masks(least_share=0.4)},
        {"prompts": other},
    ]
    fresh = [run([source], tmp_path / f"{place}.parquet", model, **each) for place, each in enumerate(runs)]
    assert len({tuple(summary.to_polars()["counts"]) for summary in fresh}) == len(runs)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    for place, each in enumerate(runs[1:], start=1):
        with monkeypatch.context() as stopped:
            stopped.setattr("rag_clip.pipelines.segment.replacing_output", stop)
            with pytest.raises(KeyboardInterrupt):
                run([source], tmp_path / f"new-{place}.parquet", model)
        assert list((tmp_path / f"new-{place}.parquet.parts").rglob("*.parquet"))
        again = run([source], tmp_path / f"new-{place}.parquet", model, **each)
        assert again.to_polars().equals(fresh[place].to_polars())


def test_an_interrupted_run_goes_on_and_gives_the_same_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag_clip.pipelines.segment.SHARD_ROWS", 2)
    model = patches_model(tmp_path / "model")
    source = write_images(tmp_path / "images.parquet", pictures() * 2)
    whole = run([source], tmp_path / "whole.parquet", model)

    class StopError(Exception):
        pass

    def stop(event: ProgressEvent) -> None:
        if event.stage == "segment" and event.done >= 4:
            raise StopError

    output = tmp_path / "masks.parquet"
    with pytest.raises(StopError):
        run([source], output, model, running=Running(0, report=stop))
    assert not output.exists()
    assert len(list((tmp_path / "masks.parquet.parts").rglob("*.parquet"))) == 1
    events: list[ProgressEvent] = []
    run([source], output, model, running=Running(0, report=events.append))
    assert pq.read_table(output).equals(pq.read_table(whole.output))
    assert max(event.total or 0 for event in events if event.stage == "segment") == 4
    assert not (tmp_path / "masks.parquet.parts").exists()


def test_a_model_that_learned_nothing_is_taken_by_its_raw_patches_and_says_so(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images.parquet", pictures())
    raw = run([source], tmp_path / "raw.parquet", encoder())
    learned = run([source], tmp_path / "learned.parquet", patches_model(tmp_path / "model"))
    assert (raw.learned, learned.learned) == (False, True)
    assert json.loads(pq.read_schema(raw.output).metadata[b"rag_clip.masks"])["learned"] is False
    assert not raw.to_polars().equals(learned.to_polars())


def test_bad_input_is_refused(tmp_path: Path) -> None:
    model, source = patches_model(tmp_path / "model"), write_images(tmp_path / "images.parquet", pictures())
    with pytest.raises(ValueError, match=r"give it the suffix \.parquet"):
        run([source], tmp_path / "masks.json", model)
    with pytest.raises(ValueError, match="is one of the inputs"):
        run([source], source, model)
    (tmp_path / "mine.parquet").write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match="was not written by `rag-clip segment`"):
        run([source], tmp_path / "mine.parquet", model)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is not empty \(mine.png\) and not a folder of overlays"):
        run([source], tmp_path / "masks.parquet", model, overlays=tmp_path / "photos")
    with pytest.raises(ValueError, match="cosines go from -1 to 1"):
        Masks(2)
    with pytest.raises(ValueError, match="a text of the background is empty"):
        Masks(["grass", " "])
    with pytest.raises(ValueError, match="give 0 to 1"):
        Masks(least_share=3)
    first = run([source], tmp_path / "masks.parquet", model)
    assert run([source], tmp_path / "masks.parquet", model).masks == first.masks


def test_known_masks_are_compared(tmp_path: Path) -> None:
    model = patches_model(tmp_path / "model")
    source = write_images(tmp_path / "images.parquet", [*pictures(), b"no image"])
    run([source], tmp_path / "truth.parquet", model)
    same = run([source], tmp_path / "same.parquet", model, truth=tmp_path / "truth.parquet")
    assert (same.quality.mean_iou, same.quality.images) == (1, 3)
    other = run([source], tmp_path / "other.parquet", encoder(), truth=tmp_path / "truth.parquet")
    assert other.quality.mean_iou < 1
    with pytest.raises(ValueError, match="is one of the inputs"):
        run([source], tmp_path / "truth.parquet", model, truth=tmp_path / "truth.parquet")
