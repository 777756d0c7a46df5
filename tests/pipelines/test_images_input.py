"""The images job on bad input: damaged tars, members and paths that point outside, files that do not fit."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inputs.pairs import add, add_sample, caption, colour_pairs, write_pairs, write_tar
from inputs.pictures import encoded, picture
from rag_clip.images.opening import Images
from rag_clip.images.pairs import Pair
from rag_clip.images.tars import DOTTED, open_tar
from rag_clip.models.decode import MAX_PIXELS
from rag_clip.pipelines.images import ImagesSummary, index_images
from rag_clip.pipelines.running import Running
from rag_clip.store import open_store
from rag_clip.testing import ToyEncoder


def run(paths: list[Path] | Images, index: Path, **settings: Any) -> ImagesSummary:
    defaults: dict[str, Any] = {"encoder": ToyEncoder(), "running": Running(0), "noise": False}
    return index_images(paths, index=index, **defaults | settings)


def errors(summary: ImagesSummary) -> list[str]:
    return pq.read_table(summary.failures)["error"].to_pylist()


def read(path: Path) -> list[Pair]:
    tar = open_tar(path, source="web")
    return [pair for pairs in tar.read([1] * tar.rows, start=0) for pair in pairs]


def test_a_sample_is_its_image_caption_and_address(tmp_path: Path):
    path = write_tar(tmp_path / "web" / "0.tar", "red", "blue")
    assert [(pair.key, pair.caption, pair.url, pair.problem) for pair in read(path)] == [
        ("00000", caption("red"), "http://x/00000", None),
        ("00001", caption("blue"), "http://x/00001", None),
    ]
    assert read(path)[1].image == picture("blue", kind="JPEG", size=(12, 9))


def test_the_caption_may_lie_in_the_facts_alone(tmp_path: Path):
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        add(tar, "a/0.seg.png", b"")
        add(tar, "a/1.JPG", picture("red"))
        add(tar, "a/1.json", b'{"caption": "from the facts", "url": null}')
    assert [(pair.key, pair.caption, pair.url, pair.problem) for pair in read(tmp_path / "in.tar")] == [
        ("a/0.seg", None, "", f"the name 'a/0.seg' {DOTTED}"),
        ("a/1", "from the facts", "", None),
    ]


@pytest.mark.parametrize(
    ("end", "count"), [(100, 1), (512, 1), (700, 1), (5 * 512 + 100, 2), (6 * 512, 1), (6 * 512 + 10, 1), (7 * 512, 2)]
)
def test_what_a_truncated_tar_still_holds_is_kept_and_the_cut_is_reported(tmp_path: Path, end: int, count: int):
    path = write_tar(tmp_path / "whole.tar", "red", "green")
    with tarfile.open(path) as tar:
        second = tar.getmember("00001.jpg").offset
    cut = tmp_path / "cut.tar"
    cut.write_bytes(path.read_bytes()[: second + end])
    summary = run([cut], tmp_path / "index")
    assert (summary.usable, summary.count) == (count, count)
    assert errors(summary)[-1] == "the tar is cut short or damaged here, and the rest is lost; download it again"


def test_garbage_between_members_ends_the_tar_with_a_reason(tmp_path: Path):
    path = write_tar(tmp_path / "in.tar", "red", "green", "blue")
    with tarfile.open(path) as tar:
        place = tar.getmember("00001.jpg").offset
    content = bytearray(path.read_bytes())
    content[place : place + 512] = b"\xff" * 512
    path.write_bytes(content)
    assert [pair.problem for pair in read(path)] == [
        None,
        "the tar is cut short or damaged here, and the rest is lost; download it again",
    ]


def test_a_tar_without_its_end_mark_is_reported_as_cut(tmp_path: Path):
    path = write_tar(tmp_path / "in.tar", "red")
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset_data + 512])
    assert [pair.problem is None for pair in read(path)] == [True, False]


def test_members_that_point_outside_or_are_links_are_not_read(tmp_path: Path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture("red"))
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in ("../secret.jpg", str(secret), "a/../../secret.jpg"):
            add(tar, name, picture("red"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("link.jpg" if kind == tarfile.SYMTYPE else f"{kind.decode()}.jpg")
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
        add_sample(tar, "good", "blue")
    summary = run([tmp_path / "in.tar"], tmp_path / "index")
    assert summary.reasons == {
        "member ... points outside the tar": 3,
        "member ... is a link, a device or sparse, not a regular file": 3,
    }
    assert summary.count == 1


def test_a_broken_caption_costs_its_own_sample_only(tmp_path: Path):
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        add(tar, "0.jpg", picture("red"))
        add(tar, "0.txt", b"caf\xe9")
        add(tar, "1.jpg", picture("red"))
        add(tar, "1.json", b'{"caption": ')
        add_sample(tar, "2", "red")
    summary = run([tmp_path / "in.tar"], tmp_path / "index")
    assert summary.reasons == {"the caption or JSON of the sample cannot be read": 2}
    assert summary.count == 1


def test_an_image_too_large_to_decode_is_a_failed_row(tmp_path: Path):
    side = int(MAX_PIXELS**0.5) + 1
    huge = encoded(Image.new("1", (side, side)))
    summary = run([write_pairs(tmp_path / "in.parquet", [huge, picture("red")], ["a", "b"])], tmp_path / "index")
    assert (summary.reasons, summary.count) == ({"the image is ... x ... pixels": 1}, 1)


def test_paths_in_the_data_must_stay_below_the_root(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(picture("red"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "own.png").write_bytes(picture("blue"))
    images = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "own.png", "data/link.png"]
    source = write_pairs(folder / "in.parquet", images[:4], ["a", "b", "c", "d"])
    summary = run([source], tmp_path / "index")
    assert (summary.reasons, summary.count) == ({"the image ... lies outside ...": 3}, 1)
    wider = run(Images([write_pairs(folder / "in.parquet", images, list("abcde"))], root=tmp_path), tmp_path / "wide")
    assert wider.reasons == {"the image ... lies outside ...": 1, "cannot read ...: No such file or directory": 2}
    assert wider.count == 2


def test_no_usable_pair_is_an_error_and_makes_no_index(tmp_path: Path):
    source = write_pairs(tmp_path / "in.parquet", [b"broken", None], ["a", "b"])
    with pytest.raises(ValueError, match="no row of 2 is an image with a caption to keep: 1 x not an image"):
        run([source], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_an_index_of_another_encoder_is_refused(tmp_path: Path):
    source = colour_pairs(tmp_path / "in.parquet", "red")
    run([source], tmp_path / "index")
    with pytest.raises(ValueError, match=r"encoder|width"):
        run([source], tmp_path / "index", encoder=ToyEncoder(dim=16))
    with open_store(tmp_path / "index") as store:
        assert store.count() == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"caption": ["a"]}, "no column 'image'; its columns are caption"),
        ({"image": [b"x"], "words": ["a"]}, "no column 'caption'; its columns are image, words"),
        ({"image": [b"x"], "caption": [[1, 2]]}, "column 'caption' of .* is list<.*>; captions are strings, or lists"),
    ],
)
def test_wrong_columns_are_named_before_anything_is_read(
    tmp_path: Path, columns: dict[str, Sequence[object]], message: str
):
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    good = colour_pairs(tmp_path / "good.parquet", "red")
    with pytest.raises(ValueError, match=message):
        run([good, tmp_path / "in.parquet"], tmp_path / "index")
    assert not (tmp_path / "index.shards").exists()


def test_what_is_no_file_of_images_is_refused_by_name(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("hello")
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*absent"):
        run([tmp_path / "absent"], tmp_path / "index")
    with pytest.raises(ValueError, match=r"empty has no .parquet file, no .tar and no image"):
        run([tmp_path / "empty"], tmp_path / "index")
    with pytest.raises(ValueError, match=r"text.tar is not a tar, or compressed \(.*\); give uncompressed tars"):
        run([tmp_path / "text.tar"], tmp_path / "index")
    with pytest.raises(ValueError, match="no images were given"):
        run([], tmp_path / "index")


def test_settings_that_mean_nothing_are_refused(tmp_path: Path):
    source = colour_pairs(tmp_path / "in.parquet", "red")
    with pytest.raises(ValueError, match="needs a folder for its embedded rows; give shards"):
        index_images([source], index="http://localhost:6333/images", encoder=ToyEncoder())
