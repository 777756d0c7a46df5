from __future__ import annotations

import pyarrow as pa

from rag_clip.corpus.image_size import image_size


def test_small_and_long_images_are_dropped_and_unknown_sizes_kept():
    sides = [(200, 500), (201, 201), (201, 603), (201, 604), (604, 201), (None, 100), (0, 0)]
    records = pa.table(
        {"text": [str(pair) for pair in sides], "width": [w for w, _ in sides], "height": [h for _, h in sides]}
    )
    kept = image_size()(records)
    assert kept.selected["text"].to_pylist() == ["(201, 201)", "(201, 603)", "(None, 100)"]
    assert kept.reason == ("image_small", "image_ratio", "image_ratio", "image_small")
    assert kept.score == (200.0, 604 / 201, 604 / 201, 0.0)


def test_a_corpus_without_sizes_is_kept_whole():
    records = pa.table({"text": ["a", "b"]})
    kept = image_size()(records)
    assert (kept.selected, kept.reason) == (records, ())
