"""Lists and folders of images that are wrong, odd, or behind an address."""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.pairs import add
from inputs.pictures import picture
from rag_clip.data import LabelSet
from rag_clip.files.locations import below, to_place
from rag_clip.images.items import locate
from rag_clip.images.labelled import read_several_classes
from rag_clip.images.opening import open_image_files
from rag_clip.images.rows import ImageFile, read_items, read_rows
from rag_clip.models.decode import ImageError


def opened(place: str | Path, column: str = "image") -> ImageFile:
    [file] = open_image_files([place], image_column=column)
    return file


def rows(file: ImageFile) -> list[dict[str, Any]]:
    return next(read_rows(file, [file.rows])).to_pylist()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name,kind\nx,y", "has no column 'image'; its columns are name, kind"),
        ("a.csv", "path,label\ngone.png,red\n,blue", "names no existing file in its first 2 rows .*gone.png"),
        ("a.csv", "path,path\na.png,b.png", r"names a column twice \(path, path\); rename one"),
        ("a.csv", "", "has no row that names an image"),
        ("a.jsonl", "[1]\nnothing", "has no row that names an image"),
        ("metadata.csv", "name,kind\nx,y", "has no column 'file_name'; it has name, kind"),
    ],
)
def test_lists_that_name_no_images_are_refused(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path if name == "metadata.csv" else tmp_path / name)


def test_a_list_may_lead_elsewhere_and_a_folder_may_not(tmp_path: Path):
    (tmp_path / "red.png").write_bytes(picture("red"))
    (tmp_path / "lists").mkdir()
    names = ["../red.png", str(tmp_path / "red.png")]
    for name in ("list.csv", "metadata.csv"):
        (tmp_path / "lists" / name).write_text("\n".join(["file_name", *names]))
    assert next(read_items(opened(tmp_path / "lists" / "list.csv"), [2])) == [
        str(tmp_path / "lists" / names[0]),
        names[1],
    ]
    found = next(read_items(opened(tmp_path / "lists"), [2]))
    assert all(isinstance(item, ImageError) and "lies outside" in str(item) for item in found)


def test_a_column_that_is_named_is_never_replaced_by_another(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(picture("red"))
    (tmp_path / "list.csv").write_text("path\na.png")
    with pytest.raises(ValueError, match="has no column 'photo'; its columns are path"):
        opened(tmp_path / "list.csv", "photo")


def test_hidden_files_and_files_of_other_kinds_are_no_images(tmp_path: Path):
    for name in ("red/a.png", "red/._a.png", ".cache/b.png", "red/Thumbs.db", "red/deep/c.JPG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture("red"))
    assert rows(opened(tmp_path)) == [
        {"path": "red/a.png", "label": "red"},
        {"path": "red/deep/c.JPG", "label": "deep"},
    ]


def test_images_in_the_folder_itself_have_no_label_and_one_file_may_be_given(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(picture("red"))
    assert rows(opened(tmp_path)) == rows(opened(tmp_path / "a.png")) == [{"path": "a.png"}]


def test_links_to_the_blobs_of_a_snapshot_are_followed(tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "f00").write_bytes(picture("red"))
    (tmp_path / "snapshots" / "1").mkdir(parents=True)
    (tmp_path / "snapshots" / "1" / "a.png").symlink_to("../../blobs/f00")
    (tmp_path / "snapshots" / "1" / "b.png").symlink_to("../../secret")
    first, second = next(read_items(opened(tmp_path / "snapshots" / "1"), [2]))
    assert (Path(str(first)).read_bytes(), type(second)) == (picture("red"), ImageError)


def test_tars_go_before_the_parquet_files_beside_them(tmp_path: Path):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        add(tar, "0.png", picture("red"))
    pq.write_table(pa.table({"url": ["http://x"]}), tmp_path / "00000.parquet")
    assert opened(tmp_path).path == tmp_path / "00000.tar"


def test_samples_that_cannot_be_read_are_rows_with_their_reason(tmp_path: Path):
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name, content in (
            *(("0.png", picture("red")), ("0.cls", b"red"), ("1.png", picture("red")), ("1.cls", b"\xe9")),
            *(("2.cls", b"red"), ("3.png", picture("red")), ("3.json", b"{"), ("a.b.png", b""), ("4.png", b"x")),
        ):
            add(tar, name, content)
    file = opened(tmp_path / "in.tar")
    found = [item if isinstance(item, bytes) else str(item).split(" (")[0] for item in next(read_items(file, [6]))]
    assert found == [
        picture("red"),
        "the texts of the sample cannot be read",
        "the sample has no image",
        "the JSON of the sample cannot be read",
        "the name 'a.b' has a dot, and webdataset ends a name at its first dot; rename the files in the tar",
        b"x",
    ]
    assert [row["cls"] for row in rows(file)] == ["red", None, "red", None, None, None]


@pytest.mark.parametrize("kind", ["tar", "jsonl"])
def test_lists_of_labels_are_several(tmp_path: Path, kind: str):
    facts = ['{"image": "0.png", "label": ["red", "blue"]}', '{"image": "1.png", "label": []}']
    for row in range(2):
        (tmp_path / f"{row}.png").write_bytes(picture("red"))
    (tmp_path / "in.jsonl").write_text("\n".join(facts))
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for row in range(2):
            add(tar, f"{row}.png", picture("red"))
            add(tar, f"{row}.json", facts[row].encode())
    targets = read_several_classes([opened(tmp_path / f"in.{kind}")], LabelSet(("red", "green", "blue")), "label")
    assert targets.tolist() == [[True, False, True], [False, False, False]]


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_url_whose_package_is_missing_names_it():
    with pytest.raises(ValueError, match=r"s3://bucket/a\.parquet needs one more package: pip install s3fs$"):
        opened("s3://bucket/a.parquet")


def test_urls_are_never_paths():
    assert to_place("s3://bucket/a") == "s3://bucket/a"
    assert below("hf://datasets/a/b/", "c.parquet") == "hf://datasets/a/b/c.parquet"
    assert below(Path("x"), "s3://bucket/a") == "s3://bucket/a"
    assert below("x", "a") == Path("x/a")
    assert locate("img/1.png", "s3://bucket/data", confined=True) == "s3://bucket/data/img/1.png"
    assert isinstance(locate("../1.png", "s3://bucket/data", confined=True), ImageError)
    assert isinstance(locate("s3://other/1.png", Path("/data"), confined=True), ImageError)
    assert locate("s3://other/1.png", Path("/data"), confined=False) == "s3://other/1.png"
