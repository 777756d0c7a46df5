from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rag_clip.data import LabelSet, SeveralLabels, Support
from rag_clip.files.support import merge_support_files, merge_supports, read_support, read_support_images, write_support
from rag_clip.testing import ToyEncoder, permute_support

ENCODER = ToyEncoder(dim=4)
LABELS = LabelSet(("red", "blue", "none such"), synonyms=(("scarlet",), (), ()), templates=("a {}",))


def support(**changes: Any) -> Support:
    made = Support(
        LABELS,
        torch.eye(4)[:3],
        torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.25, 0.75, 0]]),
        torch.tensor([1.0, 0.5, 0.0]),
        ("shot", "retrieved", "synthesised"),
        ("a.parquet#1", "b", "c"),
        {"encoder": asdict(ENCODER.fingerprint), "method": "test", "settings": {"k": 1}},
        {"timm:x": torch.eye(2)[[0, 1, 1]]},
    )
    return replace(made, **changes)


def assert_equal(found: Support, expected: Support) -> None:
    for name in ("labels", "origin", "references", "provenance"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.several == expected.several
    for name in ("features", "shares", "relevance"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.others.keys() == expected.others.keys()
    assert all(torch.equal(found.others[name], values) for name, values in expected.others.items())


def test_a_support_set_comes_back_as_it_was_written(tmp_path: Path):
    write_support(support(), tmp_path / "new" / "s.parquet", images=[b"1", None, b"3"])
    assert_equal(read_support(tmp_path / "new" / "s.parquet", encoder=ENCODER.fingerprint), support())
    assert read_support_images(tmp_path / "new" / "s.parquet") == [b"1", None, b"3"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s.parquet"]


def test_rows_may_be_deleted_with_any_tool(tmp_path: Path):
    path = tmp_path / "s.parquet"
    write_support(support(), path)
    table = pq.read_table(path)
    assert table.to_pylist()[2]["classes"] == ["red", "blue"]
    pq.write_table(table.filter(pa.array([True, False, True])), path)
    left = read_support(path)
    assert (left.references, left.missing) == (("a.parquet#1", "c"), ("none such",))
    assert read_support_images(path) == [None, None]


def test_features_of_another_encoder_are_refused(tmp_path: Path):
    write_support(support(), tmp_path / "s.parquet")
    message = r"s.parquet: the support set was made with toy .*, but the encoder is toy .*; make it again"
    with pytest.raises(ValueError, match=message):
        read_support(tmp_path / "s.parquet", encoder=ToyEncoder(dim=8).fingerprint)


def test_what_is_not_a_support_file_is_refused(tmp_path: Path):
    pl.DataFrame({"reference": ["a"]}).write_parquet(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no")
    for name, message in (
        ("other.parquet", "is not a support file; it needs the columns reference, origin"),
        ("text.parquet", "is not a readable Parquet file"),
        ("s.csv", "support sets are .parquet files, found suffix '.csv'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_support(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="write one with `rag-clip support`"):
        read_support(tmp_path / "absent.parquet")
    with pytest.raises(ValueError, match="is a folder; name a file"):
        write_support(support(), tmp_path)
    with pytest.raises(ValueError, match="2 images for 3 rows"):
        write_support(support(), tmp_path / "s.parquet", images=[None, None])


def test_a_class_that_the_label_set_does_not_have_is_named(tmp_path: Path):
    path = tmp_path / "s.parquet"
    write_support(support(), path)
    table = pq.read_table(path)
    place = table.column_names.index("classes")
    column = pa.array([["red"], ["green"], ["red", "blue"]])
    pq.write_table(table.set_column(place, "classes", column), path)
    with pytest.raises(ValueError, match=r"row 2 has the class 'green', which is not in its label set"):
        read_support(path)


def test_merging_keeps_an_image_once_and_what_it_stands_for_is_the_mean():
    first = support()
    moved = permute_support(support(targets=torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]])), [2, 0, 1])
    second = replace(moved, references=("new", "b", "c"), relevance=torch.tensor([1.0, 0.75, 0.5]))
    merged, kept = merge_supports([first, second])
    assert kept == ((0, 0), (0, 1), (0, 2), (1, 0))
    assert merged.references == ("a.parquet#1", "b", "c", "new")
    assert merged.labels == LABELS
    expected = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.125, 0.375, 0.5], [1, 0, 0]])
    assert torch.equal(merged.shares, expected)
    assert merged.relevance.tolist() == [1.0, 0.5, 0.0, 1.0]
    assert merged.provenance["parts"] == [first.provenance, second.provenance]
    assert merged.provenance["encoder"] == asdict(ENCODER.fingerprint)
    assert torch.equal(merged.others["timm:x"], torch.eye(2)[[0, 1, 1, 0]])


def test_sets_that_do_not_belong_together_are_refused():
    other_classes = support(labels=LabelSet(("red", "blue", "pink")))
    other_encoder = support(provenance={"encoder": asdict(replace(ENCODER.fingerprint, weights="else"))})
    for second, message in (
        (other_classes, "different classes, such as 'none such'"),
        (support(features=torch.eye(5)[:3]), "features of width 5 and 4"),
        (support(others={}), "additional encoders [] and ['timm:x']"),
        (other_encoder, "made with toy (no tag, weights else), but the encoder is toy (no tag, weights toy-4)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            merge_supports([support(), second])
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_supports([])


def test_merged_files_keep_the_bytes_of_their_images(tmp_path: Path):
    write_support(support(), tmp_path / "a.parquet", images=[b"1", None, b"3"])
    write_support(support(references=("x", "b", "y")), tmp_path / "b.parquet")
    assert merge_support_files([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "c.parquet") == (5, 1)
    assert read_support(tmp_path / "c.parquet").references == ("a.parquet#1", "b", "c", "x", "y")
    assert read_support_images(tmp_path / "c.parquet") == [b"1", None, b"3", None, None]


def test_several_labels_come_back_and_merge_as_all_of_them(tmp_path: Path):
    targets = torch.tensor([[True, True, False], [False, True, False], [False, False, False]])
    several = support(targets=SeveralLabels(targets))
    write_support(several, tmp_path / "a.parquet")
    assert_equal(read_support(tmp_path / "a.parquet"), several)
    other = support(
        targets=SeveralLabels(torch.tensor([[True, False, True], [False, True, False], [True, False, False]]))
    )
    merged, _ = merge_supports([several, other])
    assert merged.targets.tolist() == [[True, True, True], [False, True, False], [True, False, False]]
    with pytest.raises(ValueError, match="some of the support sets are multi-label and others are not"):
        merge_supports([several, support()])


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("classes", [["red"], None, ["blue"]], "has no 'classes' in row 2; delete the row, or fill it in"),
        ("classes", [["red"], [None], ["blue"]], "row 2 has the class None, which is not in its label set"),
        ("classes", [["red"], ["red", "blue"], ["blue"]], r"row 2 has 2 classes and the shares \[1.0\]; give one"),
        ("shares", [[1.0], [None], [1.0]], r"row 2 has 1 class and the shares \[None\]; give one per class"),
        ("features", [[1.0] * 4, None, [1.0] * 4], "has no 'features' in row 2; delete the row, or fill it in"),
        ("features", [[1.0] * 4, [1.0, None, 1.0, 1.0], [1.0] * 4], "the support set has features that are not finite"),
        ("features", [[1.0] * 4, [1.0] * 3, [1.0] * 4], "column 'features' has rows of 3 and of 4 numbers"),
        ("features", ["a", "b", "c"], "column 'features' does not hold list<.* float> values: Unsupported cast"),
        ("relevance", [1.0, None, 1.0], "has no 'relevance' in row 2"),
        ("reference", ["a", None, "b"], "has no 'reference' in row 2"),
    ],
)
def test_nulls_and_other_values_are_named_with_their_row(tmp_path: Path, column: str, values: list, message: str):
    path, single = tmp_path / "s.parquet", torch.eye(3)[[0, 1, 1]]
    write_support(support(targets=single), path)
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values)), path)
    with pytest.raises(ValueError, match=f"s.parquet: {message}"):
        read_support(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("[]", "its metadata 'rag_clip.support' is not a JSON object"),
        ("{}", "`labels` is missing; give a list of names"),
        ('{"templates": [], "labels": ["red", "blue"], "provenance": 3}', "its provenance is of type int"),
        (
            '{"templates": [], "labels": ["red", "blue"], "provenance": {"encoder": {"model": 1}}}',
            "its encoder is recorded as .*; give the texts model, pretrained, weights, preprocessing, precision",
        ),
    ],
)
def test_metadata_that_was_changed_is_refused(tmp_path: Path, facts: str, message: str):
    path = tmp_path / "s.parquet"
    write_support(support(), path)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"rag_clip.support": facts}), path)
    with pytest.raises(ValueError, match=f"s.parquet: {message}"):
        read_support(path, encoder=ENCODER.fingerprint)
