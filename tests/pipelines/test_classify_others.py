"""Classifying with a head that looks at every image with two encoders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from inputs.pictures import COLOURS, LightEncoder, colour_prompts, colours, encoded, picture, write_images
from rag_clip.classifiers.como import CoMoSettings
from rag_clip.classifiers.match import Scoring, match
from rag_clip.classifiers.prepared import PreparedHead
from rag_clip.classifiers.reuse import Reuse
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features, Support
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

SECOND = LightEncoder(dim=16, name="second")


@dataclass(frozen=True, slots=True)
class BlindToBlue(LightEncoder):
    """Gives no finite features for blue images."""

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        found = LightEncoder.encode_pixels(self, pixels)
        return Features(torch.where(pixels[:, 2, :1, 0] > 200, torch.nan, found.pooled))


def support(names: Sequence[str]) -> Support:
    """Two slightly different images of each colour."""
    shades = [tuple(min(255, value + shift) for value in COLOURS[name]) for name in names for shift in (0, 40)]
    images = [encoded(Image.new("RGB", (9, 9), shade)) for shade in shades]
    features, others = (encoder.encode_images(images).pooled for encoder in (ToyEncoder(), SECOND))
    targets = torch.eye(len(names)).repeat_interleave(2, 0)
    count = len(images)
    references = tuple(map(str, range(count)))
    return Support(
        colour_prompts(*names).labels, features, targets, torch.ones(count), ("shot",) * count, references,
        others={"second": others},
    )  # fmt: skip


HEAD = PreparedHead(
    lambda text: CoMoSettings(alpha=40, beta=3).build(text, support(list(COLOURS))),
    {"name": "como"},
    others={"second": SECOND},
)


def run(source: Path, output: Path, **settings: Any):
    defaults: dict[str, Any] = {
        "prompts": colour_prompts(),
        "encoder": LightEncoder(),
        "head": HEAD,
    }
    return classify([source], output=output, **{"running": Running(0)} | defaults | settings)


def test_the_head_gets_each_images_features_by_both_encoders(tmp_path: Path) -> None:
    images = [b"broken" if row in (1, 6) else picture(name) for row, name in enumerate(colours(11))]
    summary = run(
        write_images(tmp_path / "in.parquet", images),
        tmp_path / "out.parquet",
        running=Running(0, 3, shard_rows=4),
        scoring=Scoring(top_k=3),
    )
    good = [image for image in images if image != b"broken"]
    features = Features(ToyEncoder().encode_images(good).pooled, others={"second": SECOND.encode_images(good).pooled})
    expected = match(HEAD.build(zero_shot(colour_prompts(), ToyEncoder())), features, top_k=3)
    written = pq.read_table(tmp_path / "out.parquet").to_pylist()
    found = [row["top_k_scores"] for row in written if row["error"] is None]
    torch.testing.assert_close(torch.tensor(found), expected.scores, atol=1e-5, rtol=0)
    assert [row["label"] for row in written if row["error"] is None] == [
        name for row, name in enumerate(colours(11)) if row not in (1, 6)
    ]
    assert (summary.rows, summary.failed, summary.decoded) == (11, 2, 11)
    facts = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"rag_clip"])
    assert facts["others"] == {"second": asdict(SECOND.fingerprint)}


def test_an_image_that_one_encoder_fails_on_has_its_error(tmp_path: Path) -> None:
    blind = BlindToBlue(dim=16, name="blind")
    source = write_images(tmp_path / "in.parquet", [picture("red"), picture("blue"), b"broken", picture("green")])
    summary = run(source, tmp_path / "out.parquet", head=replace(HEAD, others={"second": blind}))
    written = pq.read_table(tmp_path / "out.parquet")
    assert written["label"].to_pylist() == ["red", None, None, "green"]
    assert written["error"].to_pylist()[1] == "second: the encoder's features are not finite; try precision fp32"
    assert "second" not in written["error"].to_pylist()[2]
    assert summary.failed == 2


def test_features_of_both_encoders_are_kept_and_taken_up(tmp_path: Path) -> None:
    source = write_images(tmp_path / "in.parquet", [picture(name) for name in colours(5)])
    settings = {"reuse": Reuse(features_dir=tmp_path / "features")}
    alone = run(source, tmp_path / "alone.parquet", head=None, **settings)
    both = run(source, tmp_path / "both.parquet", **settings)
    again = run(source, tmp_path / "again.parquet", **settings)
    assert [(done.decoded, done.from_cache) for done in (alone, both, again)] == [(5, 0), (5, 0), (0, 5)]
    assert pq.read_table(tmp_path / "again.parquet").equals(pq.read_table(tmp_path / "both.parquet"))


def test_a_head_without_its_second_encoder_says_which_it_needs(tmp_path: Path) -> None:
    source = write_images(tmp_path / "in.parquet", [picture("red")])
    with pytest.raises(ValueError, match="needs features of the images by second, and found none"):
        run(source, tmp_path / "out.parquet", head=replace(HEAD, others={}))
    assert not (tmp_path / "out.parquet").exists()
