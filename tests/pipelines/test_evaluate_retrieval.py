"""Image-text retrieval as a task: pairs are encoded once, and features are ranked without an encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from inputs.folders import ROOT
from inputs.pairs import write_pairs
from inputs.photographs import photographs
from rag_clip.images.opening import Images
from rag_clip.pipelines.evaluate_retrieval import Recall, RetrievalSummary, evaluate_retrieval
from rag_clip.pipelines.running import Running

PAIRS = ROOT.parent / "shared" / "data" / "features" / "coco_val2017_250_CLIP_ViTB16.npz"


def values(summary: RetrievalSummary) -> list[float]:
    return [round(recall.value, 4) for recall in summary.recalls]


def test_features_are_ranked_without_an_encoder(tmp_path: Path) -> None:
    image = np.eye(3, dtype=np.float32)
    text = np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 1, 0.2], [0, 0.3, 1]], np.float32)
    np.savez(tmp_path / "pairs.npz", image=image, caption_feature=text, owner=[0, 0, 1, 2])
    summary = evaluate_retrieval(tmp_path / "pairs.npz", output=tmp_path / "recall.parquet", running=Running(0))
    assert values(summary) == [100, 100, 100, 75, 100, 100]
    assert summary.mean_recall == pytest.approx(575 / 6)
    assert [Recall(**row) for row in pq.read_table(tmp_path / "recall.parquet").to_pylist()] == list(summary.recalls)
    again = evaluate_retrieval(tmp_path / "pairs.npz", output=tmp_path / "recall.parquet", running=Running(0))
    assert again.recalls == summary.recalls


def test_pairs_are_encoded_and_equal_images_are_one(tmp_path: Path) -> None:
    shown = photographs(3)
    captions: list[str | None] = ["a kite", "a boat", "a lamp", "the same kite"]
    pairs = write_pairs(tmp_path / "pairs.parquet", [*shown, shown[0]], captions)
    summary = evaluate_retrieval(pairs, encoder="demo", shards=tmp_path / "shards", running=Running(0))
    assert (summary.images, summary.captions, summary.failed) == (3, 4, 0)
    assert values(summary)[2] == values(summary)[5] == 100  # at most four to rank
    bad = write_pairs(tmp_path / "bad.parquet", [*shown, b"no image"], captions)
    assert evaluate_retrieval(bad, encoder="demo", running=Running(0)).failed == 1


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", label=[1, 2])
    with pytest.raises(ValueError, match="has label; give features `image`"):
        evaluate_retrieval(tmp_path / "other.npz", running=Running(0))
    pairs = write_pairs(tmp_path / "pairs.parquet", photographs(2), ["a", "b"])
    with pytest.raises(ValueError, match="must be encoded; name a model"):
        evaluate_retrieval(pairs, running=Running(0))
    with pytest.raises(ValueError, match="leave out the limit of 1"):
        evaluate_retrieval(Images(pairs, limit=1), encoder="demo", running=Running(0))
    with pytest.raises(ValueError, match="is one of the inputs"):
        evaluate_retrieval(pairs, encoder="demo", output=pairs, running=Running(0))


@pytest.mark.skipif(not PAIRS.exists(), reason="needs ../shared")
def test_genuine_clip_pairs_have_the_recorded_recall() -> None:
    assert values(evaluate_retrieval(PAIRS, running=Running(0))) == [60.0, 85.6, 93.6, 59.6, 86.4, 92.8]
