from pathlib import Path

import pytest

from rag_clip.data import LabelSet
from rag_clip.evaluation.task import Task, bundled_tasks, read_task, task_labels
from rag_clip.prompts.knowledge.names import folded

DOCUMENT = """
name = "Colours"
metric = "mean_per_class"
labels = [{name = "red", group = "warm"}, {name = "blue", group = "cold"}]
templates = ["a {} thing"]
[splits]
train = "a/train.parquet"
test = "a/test.npz"
[expected]
classes = 2
test = 4
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "colours.toml"
    path.write_text(text)
    return path


def test_a_task_is_what_its_file_says(tmp_path: Path):
    task = read_task(write(tmp_path, DOCUMENT))
    assert task == Task(
        name="Colours",
        metric="mean_per_class",
        splits={"train": "a/train.parquet", "test": "a/test.npz"},
        labels=LabelSet(("red", "blue"), groups=("warm", "cold"), templates=("a {} thing",)),
        templates=("a {} thing",),
        expected={"classes": 2, "test": 4},
    )
    assert task.path("test", "data") == Path("data/a/test.npz")
    with pytest.raises(ValueError, match="'Colours' has no validation split; it has train, test"):
        task.path("validation", "data")


def test_labels_in_a_file_are_read_from_the_folder_and_the_templates_of_the_task_come_first(tmp_path: Path):
    text = DOCUMENT.replace(DOCUMENT.splitlines()[3], 'labels = "labels.json"')
    (tmp_path / "labels.json").write_text('{"labels": ["red", "blue"], "templates": ["{}"]}')
    task = read_task(write(tmp_path, text))
    assert task_labels(task, tmp_path) == LabelSet(("red", "blue"), templates=("a {} thing",))
    plain = read_task(write(tmp_path, text.replace('templates = ["a {} thing"]', "")))
    assert task_labels(plain, tmp_path).templates == ("{}",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "Colours"', "", "has no 'name'; needed are name, metric, splits, labels"),
        ('"mean_per_class"', '"f1"', "metric is 'f1'; give 'accuracy', 'mean_per_class', "),
        ('"mean_per_class"', "1", "metric is 1; give 'accuracy', "),
        ('test = "a/test.npz"', "", "there is no test split; give splits.test"),
        ("train =", "val =", "unknown key 'splits.val'; known are train, validation, test"),
        ("classes = 2", "images = 2", "unknown expected count 'images'"),
        ("classes = 2", 'classes = "2"', "expected.classes is '2'; give a whole number"),
        ('"a/test.npz"', "3", "splits.test is 3; give a text"),
        ("templates =", "template =", "unknown key 'template'"),
        ('["a {} thing"]', '["a thing"]', "template 'a thing' has no '{}'"),
        ('["a {} thing"]', "[1]", "templates contain 1; give texts"),
        ('"blue"', '"red"', "label 2 repeats label 1"),
        ("name =", "name", "colours.toml: "),
    ],
)
def test_a_task_file_that_is_wrong_is_named_with_what_is_wrong(tmp_path: Path, old: str, new: str, message: str):
    path = write(tmp_path, DOCUMENT.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"colours\.toml: ") as caught:
        read_task(path)
    assert message in str(caught.value)


def test_a_task_that_is_neither_a_file_nor_bundled_is_refused_with_those_that_are():
    with pytest.raises(FileNotFoundError, match=r"no task file elevater/moon, .*bundled are coop/caltech101, "):
        read_task("elevater/moon")


def test_every_bundled_task_is_read_and_says_what_to_expect():
    tasks = {name: read_task(name) for name in bundled_tasks()}
    assert {suite: sum(name.startswith(suite) for name in tasks) for suite in ("coop/", "elevater/", "openness/")} == {
        "coop/": 11,
        "elevater/": 20,
        "openness/": 3,
    }
    for name, task in tasks.items():
        assert {"classes", "test"} <= (task.expected or {}).keys(), name
        assert set(task.splits.values()) == {f"{name}/{role}.parquet" for role in task.splits}
        assert isinstance(task.labels, LabelSet) or task.labels == f"{name}/labels.json"
        if isinstance(task.labels, LabelSet):
            groups = len(set(task.labels.groups))
            expected = task.expected or {}
            assert (expected["classes"], expected.get("groups", 1)) == (len(task.labels), groups), name


def test_cifar_100_has_twenty_superclasses_of_five():
    labels = read_task("openness/cifar100").labels
    assert isinstance(labels, LabelSet)
    assert {group: labels.groups.count(group) for group in labels.groups} == dict.fromkeys(labels.groups, 5)
    assert len(set(labels.groups)) == 20
    assert [name for name, group in zip(labels.names, labels.groups, strict=True) if group == "fish"] == [
        "aquarium fish",
        "flatfish",
        "ray",
        "shark",
        "trout",
    ]


def test_every_task_of_elevater_has_the_names_and_templates_of_the_toolkit():
    counts = {
        "caltech101": (102, 34),
        "cifar10": (10, 18),
        "cifar100": (100, 18),
        "country211": (211, 5),
        "dtd": (47, 8),
        "eurosat": (10, 3),
        "fer2013": (7, 6),
        "fgvc_aircraft": (100, 2),
        "flowers102": (102, 1),
        "food101": (101, 1),
        "gtsrb": (43, 3),
        "hateful_memes": (2, 1),
        "kitti_distance": (4, 1),
        "mnist": (10, 1),
        "oxford_pets": (37, 1),
        "patch_camelyon": (2, 1),
        "rendered_sst2": (2, 1),
        "resisc45": (45, 18),
        "stanford_cars": (196, 8),
        "voc2007": (20, 1),
    }
    tasks = {name: read_task(f"elevater/{name}") for name in counts}
    labels = {name: task.labels for name, task in tasks.items() if isinstance(task.labels, LabelSet)}
    assert {name: (len(held), len(set(held.templates))) for name, held in labels.items()} == counts
    assert all(len({folded(name) for name in held.names}) == len(held) for held in labels.values())
    assert labels["fgvc_aircraft"].names[-1] == "Yak-42"
    assert labels["gtsrb"].names[0] == "red and white circle 20 kph speed limit"
    assert labels["country211"].templates[0] == "a photo i took in {}."
    assert [task.expected["classes"] for task in tasks.values() if task.expected] == [c for c, _ in counts.values()]
