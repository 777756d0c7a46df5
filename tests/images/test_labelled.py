from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from inputs.pictures import encoded
from rag_clip.data import LabelSet
from rag_clip.images.labelled import read_labelled
from rag_clip.images.opening import Images
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder()
LABELS = LabelSet(("red thing", "blue thing"), synonyms=((), ("azure",)))


def png(colour: str) -> bytes:
    return encoded(Image.new("RGB", (8, 8), colour))


def write(path: Path, images: list[bytes], labels: Sequence[str | None]) -> Path:
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


def test_labels_find_their_class_without_case_punctuation_or_by_a_synonym(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [png("red"), png("blue"), png("blue")], ["Red_Thing", "azure", "blue thing"])
    labelled = read_labelled([path], LABELS, encoder=ENCODER)
    assert labelled.targets.tolist() == [0, 1, 1]
    assert labelled.failed == 0
    expected = ENCODER.encode_images([png("red"), png("blue"), png("blue")]).pooled
    torch.testing.assert_close(labelled.features.pooled, expected)


def test_images_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path):
    first = write(tmp_path / "a.parquet", [b"broken", png("red")], ["blue thing", "red thing"])
    second = write(tmp_path / "b.parquet", [png("blue")], ["blue thing"])
    labelled = read_labelled([first, second], LABELS, encoder=ENCODER, features_dir=tmp_path / "features")
    assert (labelled.targets.tolist(), labelled.failed, len(labelled.features.pooled)) == ([0, 1], 1, 2)
    again = read_labelled([first, second], LABELS, encoder=ENCODER, features_dir=tmp_path / "features")
    assert torch.equal(again.features.pooled, labelled.features.pooled)


def test_further_encoders_see_the_same_images(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [png("red"), b"broken", png("blue")], ["red thing", "blue thing", "azure"])
    second = ToyEncoder(dim=8, name="second")
    labelled = read_labelled([path], LABELS, encoder=ENCODER, others={"second": second})
    assert (labelled.targets.tolist(), labelled.failed) == ([0, 1], 1)
    expected = second.encode_images([png("red"), png("blue")]).pooled
    torch.testing.assert_close(labelled.features.others["second"], expected)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            [png("red")] * 2,
            ["red thing", "green"],
            "column 'label': 1 label not among the 2 classes, such as 'green'; add them to the lab",
        ),
        (
            [png("red")] * 2,
            ["red thing", None],
            "1 image without a label in column 'label'; label all images, or leave",
        ),
        ([b"broken"], ["red thing"], "none of 1 image can be used; the first error is: "),
    ],
)
def test_labels_and_images_that_cannot_be_used_are_refused(
    tmp_path: Path, images: list[bytes], labels: Sequence[str | None], message: str
):
    with pytest.raises(ValueError, match=message):
        read_labelled([write(tmp_path / "a.parquet", images, labels)], LABELS, encoder=ENCODER)


def test_a_missing_column_of_labels_is_named(tmp_path: Path):
    path = write(tmp_path / "a.parquet", [png("red")], ["red thing"])
    with pytest.raises(ValueError, match="no column 'class' of labels; it has image, label"):
        read_labelled(Images([path], label_column="class"), LABELS, encoder=ENCODER)
