"""Heads from support files, in the classify job."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from inputs.pictures import COLOURS, colour_prompts, colours, picture, write_images
from rag_clip.classifiers.prepared import prepare_head
from rag_clip.data import Features, LabelSet, Support
from rag_clip.files.support import write_support
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder()
LABELS = LabelSet(tuple(COLOURS))


class Second(ToyEncoder):
    __slots__ = ()

    def encode_pixels(self, pixels: torch.Tensor, *, patches: bool = False) -> Features:
        return Features(ToyEncoder.encode_pixels(self, pixels).pooled.flip(1))


def shots(path: Path, names: tuple[str, ...] = tuple(COLOURS), *, images: bool = True, swapped: bool = False) -> Path:
    """Write a support file of two pictures a class; `swapped` gives them each other's labels."""
    pictures = [picture(name) for name in names for _ in range(2)]
    rows = [row for row in range(len(names)) for _ in range(2)]
    targets = torch.eye(len(names))[[(row + swapped) % len(names) for row in rows]]

    support = Support(
        LabelSet(names),
        ENCODER.encode_images(pictures).pooled,
        targets,
        torch.ones(len(rows)),
        ("shot",) * len(rows),
        tuple(f"{path.stem}-{row}" for row in range(len(rows))),
        {"encoder": asdict(ENCODER.fingerprint), "method": "shots"},
    )
    write_support(support, path, images=pictures if images else None)
    return path


def predicted(tmp_path: Path, **settings: Any) -> list[str]:
    source = write_images(tmp_path / "in.parquet", [picture(name) for name in colours(6)])
    classify(
        [source],
        prompts=colour_prompts(),
        output=tmp_path / "out.parquet",
        encoder=ENCODER,
        running=Running(0),
        **settings,
    )
    return pq.read_table(tmp_path / "out.parquet")["label"].to_pylist()


def test_images_decide_where_they_are_given_the_weight(tmp_path: Path):
    path = shots(tmp_path / "support.parquet", swapped=True)
    head = prepare_head("tip_adapter", path, labels=LABELS, encoder=ENCODER, options={"alpha": 1e4, "beta": 5.0})
    turned = dict(zip(COLOURS, [*list(COLOURS)[1:], next(iter(COLOURS))], strict=True))
    assert predicted(tmp_path, head=head) == [turned[name] for name in colours(6)]
    noted = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"rag_clip"])["head"]
    assert (noted["name"], noted["settings"]["alpha"], noted["support"]["images"]) == ("tip_adapter", 1e4, 6)


def test_a_support_file_in_another_order_of_classes_means_the_same(tmp_path: Path):
    one = shots(tmp_path / "one.parquet")
    other = shots(tmp_path / "other.parquet", tuple(reversed(COLOURS)))
    heads = [prepare_head("priming", path, labels=LABELS, encoder=ENCODER) for path in (one, other)]
    assert predicted(tmp_path, head=heads[0]) == predicted(tmp_path, head=heads[1]) == colours(6)


def test_a_second_encoder_sees_the_images_of_the_support_file(tmp_path: Path):
    others = {"second": Second()}
    path = shots(tmp_path / "support.parquet")
    head = prepare_head("como", path, labels=LABELS, encoder=ENCODER, others=others)
    assert predicted(tmp_path, head=head) == colours(6)
    with pytest.raises(ValueError, match="como blends features of several encoders; name a second one"):
        prepare_head("como", path, labels=LABELS, encoder=ENCODER)
    bare = shots(tmp_path / "bare.parquet", images=False)
    with pytest.raises(ValueError, match="holds 0 of its 6 images, and toy must see each"):
        prepare_head("como", bare, labels=LABELS, encoder=ENCODER, others=others)


def test_settings_can_be_chosen_by_a_validation_file(tmp_path: Path):
    path, judged = shots(tmp_path / "support.parquet"), shots(tmp_path / "validation.parquet")
    head = prepare_head("tip_adapter", path, labels=LABELS, encoder=ENCODER, validation=judged)
    assert predicted(tmp_path, head=head) == colours(6)
    assert head.facts["validation"] == {"path": str(judged), "images": 6}


def test_files_of_other_labels_or_another_encoder_are_refused(tmp_path: Path):
    path = shots(tmp_path / "support.parquet", ("red", "green"))
    with pytest.raises(ValueError, match="has other classes than the prompts \\('blue' is in one of them only\\)"):
        prepare_head("priming", path, labels=LABELS, encoder=ENCODER)
    with pytest.raises(ValueError, match="encoder"):
        prepare_head("priming", path, labels=LABELS, encoder=replace(ENCODER, name="other"))
