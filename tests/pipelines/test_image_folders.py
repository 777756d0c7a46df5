"""Folders partitioned by a column, and labels that are numbers, in every verb that reads images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.nn.functional import one_hot

from inputs.pictures import colour_prompts, picture
from inputs.tasks import prompt_files
from rag_clip.captions.sources.finding import find_sources, read_source
from rag_clip.data import LabelSet, SeveralLabels
from rag_clip.evaluation.check import check_evaluation
from rag_clip.evaluation.image_tasks import image_task, open_tasks
from rag_clip.files.support import read_support
from rag_clip.images.labelled import read_classes, read_labelled
from rag_clip.images.opening import open_image_files
from rag_clip.images.rows import partitions
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_shots import ShotSettings, support_from_shots
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder()
NAMES = ("blue", "green", "red")  # in another order than the label set's
LABELS = LabelSet(("red", "green", "blue"))
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hive(folder: Path, *names: str) -> Path:
    for name in names or ("red", "blue"):
        part = folder / "hive" / f"label={name}" / "year=2024"
        part.mkdir(parents=True)
        pq.write_table(pa.table({"image": [picture(name)], "caption": [f"a {name} square"]}), part / "part-0.parquet")
    return folder / "hive"


def hugging_face(path: Path, labels: Sequence[Any], feature: object, names: tuple[str, ...] = NAMES) -> Path:
    """Write pictures as the Hugging Face hub serves them: numbers, with their names in the file's metadata."""
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
    flat = [row[0] if isinstance(row, list) else row for row in labels]
    images = [{"bytes": picture(names[int(number)]), "path": None} for number in flat]
    table = pa.table({"image": pa.array(images, IMAGE), "label": labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)
    return path


def class_label(names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


def top_1(place: Path, folder: Path, **settings: Any) -> float:
    texts = prompt_files(folder)
    [(task, where)] = open_tasks([place], labels=texts[0].prompts.labels, **settings)
    assert check_evaluation([(task, where)], texts=texts[:1]) == ()
    summary = evaluate(
        [image_task(task, where)],
        prompts=texts[:1],
        output=folder / "results.parquet",
        encoder=ENCODER,
        running=Running(0),
    )
    found = summary.results[0].get("accuracy") or summary.results[0].get("map_11_point")
    assert found is not None
    return found.value


def test_the_folders_of_a_partition_are_columns_of_predictions(tmp_path: Path):
    classify(
        [hive(tmp_path)], prompts=colour_prompts(), output=tmp_path / "out.parquet", encoder=ENCODER, running=Running(0)
    )
    rows = pq.read_table(tmp_path / "out.parquet", columns=["label", "year", "predicted_label"]).to_pylist()
    assert rows == [
        {"label": "blue", "year": "2024", "predicted_label": "blue"},
        {"label": "red", "year": "2024", "predicted_label": "red"},
    ]


def test_the_folders_of_a_partition_are_labels(tmp_path: Path):
    folder = hive(tmp_path)
    assert read_labelled([folder], LABELS, encoder=ENCODER).targets.tolist() == [2, 0]
    support_from_shots(
        [folder],
        LABELS,
        output=tmp_path / "s.parquet",
        encoder=ENCODER,
        k=1,
        running=Running(0),
        settings=ShotSettings(views=0),
    )
    assert read_support(tmp_path / "s.parquet").targets.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_partitioned_folder_is_evaluated(tmp_path: Path):
    assert top_1(hive(tmp_path, "red", "blue", "green"), tmp_path) == 1


def test_pairs_and_captions_are_read_from_partitions(tmp_path: Path):
    folder = hive(tmp_path)
    pairs = index_images([folder], index=tmp_path / "index", encoder=ENCODER, noise=False, running=Running(0))
    assert (pairs.rows, pairs.count) == (2, 2)
    captions = [row["text"] for source in find_sources([folder]) for b in read_source(source) for row in b.to_pylist()]
    assert sorted(captions) == ["a blue square", "a red square"]


def test_partitions_are_unquoted_and_end_at_the_first_other_folder(tmp_path: Path):
    assert partitions(Path("/a=b/data/dog%20breed=St.%20Bernard/year=__HIVE_DEFAULT_PARTITION__/x.parquet")) == {
        "dog breed": "St. Bernard",
        "year": None,
    }
    assert partitions(tmp_path / "x.parquet") == {}


def test_a_column_of_the_file_goes_before_the_folder_of_that_name(tmp_path: Path):
    (tmp_path / "label=red").mkdir()
    pq.write_table(pa.table({"image": [picture("blue")], "label": ["blue"]}), tmp_path / "label=red" / "x.parquet")
    assert read_labelled([tmp_path / "label=red"], LABELS, encoder=ENCODER).targets.tolist() == [2]


@pytest.mark.parametrize(
    ("labels", "feature"),
    [
        ([0, 1, 2], class_label()),
        ([0.0, 1.0, 2.0], class_label()),
        ([[0], [1], [2]], {"feature": class_label(), "_type": "Sequence"}),
        ([[0], [1], [2]], {"feature": class_label(), "_type": "List"}),
        ([[0], [1], [2]], [class_label()]),
    ],
    ids=["ClassLabel", "with nulls once", "Sequence", "List", "list"],
)
def test_numbers_are_classes_by_the_names_in_the_file(tmp_path: Path, labels: Sequence[object], feature: object):
    path = hugging_face(tmp_path / "hf.parquet", labels, feature)
    targets = read_labelled([path], LABELS, encoder=ENCODER).targets
    marks = targets.marks if isinstance(targets, SeveralLabels) else one_hot(targets, 3).bool()
    assert marks.tolist() == [[False, False, True], [False, True, False], [True, False, False]]
    assert top_1(path, tmp_path) == 1
    support_from_shots(
        [path],
        LABELS,
        output=tmp_path / "s.parquet",
        encoder=ENCODER,
        k=1,
        running=Running(0),
        settings=ShotSettings(views=0),
    )
    assert read_support(tmp_path / "s.parquet").targets.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    summary = classify(
        [path], prompts=colour_prompts(), output=tmp_path / "o.parquet", encoder=ENCODER, running=Running(0)
    )
    written = pq.read_table(summary.output)
    assert written["label"].to_pylist() == labels
    assert written["predicted_label"].to_pylist() == list(NAMES)


def test_files_may_number_their_names_differently(tmp_path: Path):
    turned = tuple(reversed(NAMES))
    hugging_face(tmp_path / "a.parquet", [0, 1], class_label())
    hugging_face(tmp_path / "b.parquet", [0, 1], class_label(turned), turned)
    assert read_labelled([tmp_path], LABELS, encoder=ENCODER).targets.tolist() == [2, 1, 0, 1]


def test_numbers_are_classes_by_the_ids_of_the_label_set(tmp_path: Path):
    """Where the file has no names, and where those that it has are none of the classes."""
    labels = LabelSet(("a red thing", "a green thing", "a blue thing"), ids=("2", "1", "0"))
    for feature in ({}, class_label()):
        path = hugging_face(tmp_path / "hf.parquet", [0, 1, 2], feature)
        assert read_labelled([path], labels, encoder=ENCODER).targets.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([0, 1], {}, "2 labels not among the 3 classes, such as '0', '1'; give each class its number as `id`"),
        ([0, 1], class_label(("sea", "sky")), "2 labels not among the 3 classes, such as 'sea', 'sky'; add them"),
        ([0, 2], class_label(("red", "sky")), "has 2 in row 1; give names of the 2 classes in the file's metadata"),
        ([0, -1], class_label(), "1 image without a label in column 'label'"),
        ([[0, 1], [2]], [class_label()], "1 image with several labels in column 'label', the first in row 0"),
    ],
)
def test_numbers_that_say_no_class_are_refused(tmp_path: Path, labels: Sequence[object], feature: object, message: str):
    table = pa.table({"image": [picture("red")] * len(labels), "label": labels})
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "hf.parquet")
    with pytest.raises(ValueError, match=message):
        read_classes(open_image_files([tmp_path / "hf.parquet"], image_column="image"), LABELS)
