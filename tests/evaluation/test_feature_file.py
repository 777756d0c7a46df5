from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from inputs.folders import FEATURES, needs_features
from rag_clip.classifiers.evidence import one_label
from rag_clip.data import Features, LabelSet
from rag_clip.evaluation.feature_file import has_features, read_features
from rag_clip.images.labelled import class_numbers, holds_several

IMAGE = np.array([[3, 0, 4], [0, 2, 0], [0, 0, 5]], dtype=np.float16)
UNIT = torch.tensor([[0.6, 0, 0.8], [0, 1, 0], [0, 0, 1]])
TEXT = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 2], [0, 2, 0]]], dtype=np.float16)


def write_npz(folder: Path, **changed: np.ndarray | None) -> Path:
    arrays: dict[str, Any] = {
        "image": IMAGE,
        "label": np.array([0, 1, 0]),
        "classes": np.array(["red", "blue"]),
        "text": TEXT,
    }
    np.savez(folder / "held.npz", **{name: rows for name, rows in {**arrays, **changed}.items() if rows is not None})
    return folder / "held.npz"


def write_parquet(folder: Path, labels: pa.Array, column: str = "features") -> Path:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(IMAGE.astype(np.float32).reshape(-1)), 3)
    pq.write_table(pa.table({column: vectors, "label": labels}), folder / "held.parquet")
    return folder / "held.parquet"


def test_an_npz_file_gives_unit_features_classes_and_text(tmp_path: Path):
    held = read_features(write_npz(tmp_path, templates=np.array(["a {}", "{}"]), scale=np.array(50.0)))
    torch.testing.assert_close(held.features.pooled, UNIT)
    assert (held.labels, held.truth.tolist()) == (LabelSet(("red", "blue")), [0, 1, 0])
    assert (held.templates, held.scale) == (("a {}", "{}"), 50.0)
    last, first = held.zero_shot(), held.zero_shot(0, scale=2.0)
    assert torch.equal(last.weights, torch.tensor([[0.0, 0, 1], [0, 1, 0]]))
    assert torch.equal(first.weights, torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    assert (last.scale, first.scale) == (50.0, 2.0)


def test_classes_and_text_follow_the_label_set_given(tmp_path: Path):
    labels = LabelSet(("azure", "RED"), synonyms=(("blue",), ()))
    held = read_features(write_npz(tmp_path), labels=labels)
    assert (held.labels, held.truth.tolist()) == (labels, [1, 0, 1])
    assert torch.equal(held.zero_shot(0, scale=1.0).weights, torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
    wider = read_features(write_npz(tmp_path), labels=LabelSet(("green", "red", "blue")))
    assert wider.truth.tolist() == [1, 2, 1]
    with pytest.raises(ValueError, match="no text features of these classes"):
        wider.zero_shot(scale=1.0)


def test_labels_of_an_npz_file_may_be_names(tmp_path: Path):
    held = read_features(write_npz(tmp_path, label=np.array(["red", "blue", "red"]), classes=None, text=None))
    assert (held.labels.names, held.truth.tolist(), held.text) == (("blue", "red"), [1, 0, 1], None)


@pytest.mark.parametrize("column", ["features", "vector"])
def test_a_parquet_file_gives_features_and_names(tmp_path: Path, column: str):
    path = write_parquet(tmp_path, pa.array(["red", "blue", "Red"]), column)
    held = read_features(path, labels=LabelSet(("blue", "red")))
    torch.testing.assert_close(held.features.pooled, UNIT)
    assert held.truth.tolist() == [1, 0, 1]
    assert has_features(path)


def test_images_may_have_several_labels_where_the_metric_takes_them(tmp_path: Path):
    path = write_parquet(tmp_path, pa.array([["red", "blue"], [], ["red"]]))
    held = read_features(path, labels=LabelSet(("blue", "red")), multilabel=True)
    assert held.truth.tolist() == [[True, True], [False, False], [False, True]]
    with pytest.raises(ValueError, match=r"held\.parquet: row 0 has 2 labels; give one"):
        read_features(path, labels=LabelSet(("blue", "red")))
    assert (holds_several(path), holds_several(path.parent)) == (True, True)
    with pytest.raises(ValueError, match=r"held\.parquet: row 1 has 0 labels; give one"):
        read_features(write_parquet(tmp_path, pa.array(["red", None, "blue"])))


def test_an_npz_file_may_hold_a_matrix_of_several_labels(tmp_path: Path):
    matrix = np.array([[True, True], [False, False], [False, True]])
    path = write_npz(tmp_path, label=matrix)
    held = read_features(path, labels=LabelSet(("azure", "red"), synonyms=(("blue",), ())), multilabel=True)
    assert held.truth.tolist() == [[True, True], [False, False], [True, False]]
    assert holds_several(path)
    with pytest.raises(ValueError, match=r"`label` is bool \(3, 2\) for 3 images; .* or a metric for several labels"):
        read_features(path)
    with pytest.raises(ValueError, match=r"`label` is \(3, 3\) for 2 classes; give a column per class"):
        read_features(write_npz(tmp_path, label=np.ones((3, 3), dtype=bool)), multilabel=True)


def test_images_of_one_label_each_may_be_measured_as_of_several(tmp_path: Path):
    path = write_npz(tmp_path)
    assert read_features(path, multilabel=True).truth.tolist() == [[True, False], [False, True], [True, False]]
    assert not holds_several(path)


def test_what_cannot_be_read_holds_no_lists_of_labels(tmp_path: Path):
    (tmp_path / "a.parquet").write_text("1")
    (tmp_path / "b.npz").write_text("1")
    empty = tmp_path / "empty"
    empty.mkdir()
    places = [tmp_path / "a.parquet", tmp_path / "b.npz", tmp_path / "none.parquet", empty]
    assert [holds_several(place) for place in places] == [False] * 4
    assert not holds_several(write_parquet(tmp_path, pa.array(["red", "blue", "red"])), "name")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": None}, "has no array 'image'; it has label, classes, text"),
        ({"image": np.zeros((3, 2))}, "3 rows of features that are zero or not finite, the first is row 0"),
        ({"image": np.full((3, 2), np.nan)}, "3 rows of features that are zero or not finite"),
        ({"image": np.zeros((0, 2)), "label": np.zeros(0, dtype=int)}, "at least one row"),
        ({"label": np.array([0, 1])}, r"`label` is int64 \(2,\) for 3 images"),
        ({"label": np.array([0, 1, 2])}, r"labels lie in \[0, 2\] for 2 classes; count them from 0"),
        ({"label": np.array(["red", "blue", "pink"])}, "1 label not among the 2 classes, such as 'pink'"),
        ({"classes": None}, "labels are numbers, and there are no `classes`"),
        ({"text": TEXT[:, :1]}, r"`text` is \(2, 1, 3\) for 2 classes"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(tmp_path: Path, changed: dict[str, np.ndarray], message: str):
    with pytest.raises(ValueError, match=r"held\.npz: .*" + message):
        read_features(write_npz(tmp_path, **changed))


def test_files_that_hold_no_features_are_refused(tmp_path: Path):
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(ValueError, match=r"end in \.npz or \.parquet, found suffix '\.csv'"):
        read_features(tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="there is no features file"):
        read_features(tmp_path / "b.npz")
    pq.write_table(pa.table({"label": ["red"]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"has no column of features \(features or vector\)"):
        read_features(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_text("1")
    with pytest.raises(ValueError, match=r"d\.parquet is not a readable Parquet file"):
        has_features(tmp_path / "d.parquet")


def test_an_unknown_scale_or_template_is_refused(tmp_path: Path):
    held = read_features(write_npz(tmp_path))
    with pytest.raises(ValueError, match="the file does not say the encoder's scale"):
        held.zero_shot()
    with pytest.raises(ValueError, match="there is no template 2; the file has 2, counted from 0"):
        held.zero_shot(2, scale=1.0)


def test_a_synonym_names_its_class_beside_the_name_itself():
    assert class_numbers(["crimson", "red", "blue"], LabelSet(("blue", "red"), synonyms=((), ("crimson",)))) == [
        1,
        1,
        0,
    ]


@needs_features
@pytest.mark.parametrize(("model", "single", "ensemble"), [("ViTB32", 0.761, 0.813), ("ViTL14", 0.861, 0.855)])
def test_published_features_are_read_as_they_are(model: str, single: float, ensemble: float):
    held = read_features(FEATURES / f"whurs19_CLIP_{model}.npz")
    images = Features(held.features.pooled)
    right = [
        [
            float(
                (held.zero_shot(row, scale=100.0)(images).argmax(1) == one_label("test set", held.truth))
                .double()
                .mean()
            )
        ]
        for row in range(len(held.templates))
    ]
    assert (len(held.truth), len(held.labels), len(held.templates)) == (1005, 19, 107)
    assert right[-1][0] == pytest.approx(ensemble, abs=0.0006)
    assert single in [round(each[0], 3) for each in right]
