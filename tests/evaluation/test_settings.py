"""Settings of runs as files of 0.1.0 keep them: read as values, and written again as they were."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rag_clip.data import Fingerprint
from rag_clip.evaluation.settings import (
    CandidateFacts,
    HeadFacts,
    ImageCounts,
    PromptFacts,
    RunSettings,
    SupportFacts,
    TaskFacts,
    Unusable,
    read_settings,
    settings_to_document,
)

TASK = {"files": ["p.parquet"], "image_column": "image", "label_column": "label", "classes": 3, "metric": "accuracy"}
PROMPTS = {"path": "p.json", "method": "templates", "settings": {"weight": 0.5}, "index": None}
ENCODER = {
    "model": "toy",
    "pretrained": "",
    "weights": "toy-32",
    "preprocessing": "8x8",
    "precision": "fp32",
    "activation": "",
    "spec": "",
    "resampler": "",
    "of_images": "",
}
TEXTS_ALONE = {
    "task": TASK,
    "prompts": PROMPTS,
    "encoder": ENCODER,
    "head": {},
    "tuned": "Nothing.",
    "candidates": {"place": "words.txt", "names": 3, "left_out": 1},
    "images": 6,
    "failed": 1,
    "reasons": {"6": "not an image"},
}
ON_A_SUPPORT_FILE = {
    "task": TASK,
    "prompts": PROMPTS,
    "encoder": ENCODER,
    "vectors": "captions",
    "head": {
        "name": "tip_adapter_f",
        "settings": {"alpha": 1, "beta": None, "mode": "balanced", "schedule": {"epochs": 2}},
        "floor": True,
        "support": {"path": "s.parquet", "images": 3, "missing": 0},
        "origins": {"shot": 3},
        "validation": "",
        "others": [],
    },
    "tuned": "tip_adapter_f was trained.",
    "images": 6,
    "failed": 0,
    "reasons": {},
}
ON_SHOTS = {
    "task": TASK,
    "prompts": {"path": "test.npz", "method": "text features of the file", "row": 0},
    "scale": 20.0,
    "head": {
        "name": "ridge",
        "settings": {"bandwidth": None, "penalty": None, "mode": "balanced"},
        "floor": False,
        "shots_from": "train.npz",
        "validation": "",
        "others": ["second"],
        "seeds": 2,
        "shots": "all",
    },
    "tuned": "ridge was built.",
    "low_high": "the mean",
    "images": 60,
    "failed": 0,
    "reasons": {},
    "drawn": [3, 3],
    "train": {"failed": 1, "reasons": {"4": "not an image"}},
}


@pytest.mark.parametrize("document", [TEXTS_ALONE, ON_A_SUPPORT_FILE, ON_SHOTS])
def test_what_a_file_keeps_of_a_run_is_written_as_it_was_read(document: dict[str, Any]) -> None:
    settings, counts = read_settings(document)
    assert json.dumps(settings_to_document(settings, counts)) == json.dumps(document)


def test_the_settings_of_a_file_are_values() -> None:
    task = TaskFacts(files=("p.parquet",), image_column="image", classes=3)
    prompts = PromptFacts("p.json", "templates", {"weight": 0.5})
    encoder = Fingerprint("toy", "", "toy-32", "8x8")
    names = CandidateFacts("words.txt", names=3, left_out=1)
    assert read_settings(TEXTS_ALONE) == (
        RunSettings(task=task, prompts=prompts, encoder=encoder, tuned="Nothing.", candidates=names),
        ImageCounts(images=6, failed=1, reasons={"6": "not an image"}),
    )
    head = HeadFacts(
        name="tip_adapter_f",
        settings={"alpha": 1, "beta": None, "mode": "balanced", "schedule": {"epochs": 2}},
        support=SupportFacts("s.parquet", images=3, missing=0),
        origins={"shot": 3},
    )
    assert read_settings(ON_A_SUPPORT_FILE)[0].head == head
    assert read_settings(ON_SHOTS)[1] == ImageCounts(
        images=60, failed=0, reasons={}, drawn=(3, 3), train=Unusable(1, {"4": "not an image"})
    )


@pytest.mark.parametrize("change", [{"task": {}}, {"tuned": None}, {"failed": "1"}, {"head": {"shots": 2}}])
def test_settings_that_lack_something_or_hold_another_type_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        read_settings({**TEXTS_ALONE, **change})
