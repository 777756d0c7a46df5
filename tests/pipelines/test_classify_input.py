"""Bad images and bad files in classify."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inputs.pictures import COLOURS, LightEncoder, colour_prompts, colours, encoded, picture, write_images
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

PATHS_AND_BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def labels_of(source: Path, tmp_path: Path, *, shard_rows: int = 1024) -> list[tuple[str | None, str | None]]:
    output = tmp_path / "predictions.parquet"
    running = Running(0, shard_rows=shard_rows)
    summary = classify([source], prompts=colour_prompts(), output=output, encoder=ToyEncoder(), running=running)
    rows = pq.read_table(output, columns=["label", "error"]).to_pylist()
    assert summary.failed == sum(row["error"] is not None for row in rows)
    return [(row["label"], row["error"]) for row in rows]


def refused(source: Path | list[Path], tmp_path: Path, message: str, error: type[Exception] = ValueError) -> None:
    paths = source if isinstance(source, list) else [source]
    with pytest.raises(error, match=message):
        classify(
            paths, prompts=colour_prompts(), output=tmp_path / "out.parquet", encoder=ToyEncoder(), running=Running(0)
        )
    assert not (tmp_path / "out.parquet").exists()


def test_bad_images_become_errors_and_the_others_are_classified(tmp_path: Path):
    jpeg = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "JPEG")
    images = [picture("red"), jpeg[: len(jpeg) // 2], b"", None, b"not an image", picture("blue")]
    labels, errors = zip(*labels_of(write_images(tmp_path / "in.parquet", images), tmp_path), strict=True)
    assert labels == ("red", None, None, None, None, "blue")
    assert errors[0] is errors[5] is None
    for error, part in zip(errors[1:5], ("truncated", "zero bytes", "null", "not an image"), strict=True):
        assert part in error
        assert "\n" not in error


def test_a_failed_row_has_null_score_and_lists(tmp_path: Path):
    labels_of(write_images(tmp_path / "in.parquet", [None]), tmp_path)
    (row,) = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [row[name] for name in ("label", "score", "top_k_labels", "top_k_scores")] == [None] * 4


def test_odd_but_good_images_are_classified(tmp_path: Path):
    palette = Image.new("P", (9, 9), 1)
    palette.putpalette([0, 0, 0, *COLOURS["green"]])
    frames = [Image.new("RGB", (9, 9), COLOURS[name]) for name in ("green", "red")]
    rotated = Image.Exif()
    rotated[0x0112] = 6
    deep = np.full((9, 9), 40_000, np.uint16)
    images = {
        "one pixel": picture("red", size=(1, 1)),
        "CMYK": encoded(Image.new("CMYK", (9, 9), (255, 255, 0, 0)), "JPEG"),
        "palette with transparency": encoded(palette, transparency=0),
        "animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "rotated": encoded(Image.new("RGB", (20, 9), COLOURS["blue"]), "JPEG", exif=rotated),
        "20,000 px wide": picture("green", size=(20_000, 40)),
        "16 bits": encoded(Image.fromarray(deep)),
    }
    rows = labels_of(write_images(tmp_path / "in.parquet", list(images.values())), tmp_path)
    assert [error for _, error in rows] == [None] * len(images)
    assert [label for label, _ in rows[:-1]] == ["red", "blue", "green", "green", "blue", "green"]


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())],
    ids=str,
)
def test_bytes_are_read_from_every_binary_type(tmp_path: Path, kind: pa.DataType):
    images = [picture("red"), picture("blue"), picture("red")]
    array = pa.array(images).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(images).cast(kind)
    pq.write_table(pa.table({"image": array}), tmp_path / "in.parquet")
    assert [label for label, _ in labels_of(tmp_path / "in.parquet", tmp_path)] == ["red", "blue", "red"]


def test_structs_give_bytes_or_else_the_file_at_path(tmp_path: Path):
    (tmp_path / "green.png").write_bytes(picture("green"))
    images = [
        {"bytes": picture("red"), "path": "missing.png"},
        {"bytes": None, "path": "green.png"},
        {"bytes": None, "path": None},
        None,
    ]
    rows = labels_of(write_images(tmp_path / "in.parquet", images, PATHS_AND_BYTES), tmp_path)
    assert [label for label, _ in rows] == ["red", "green", None, None]
    assert [error for _, error in rows[2:]] == ["the image is null"] * 2


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_paths_start_at_the_folder_of_the_parquet_file_and_do_not_leave_it(tmp_path: Path, kind: pa.DataType):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "red.png").write_bytes(picture("red"))
    (tmp_path / "blue.png").write_bytes(picture("blue"))
    (folder / "link.png").symlink_to(tmp_path / "blue.png")
    outside = [str(tmp_path / "blue.png"), "../blue.png", "link.png"]
    images = pa.array(["red.png", str(folder / "red.png"), "gone.png", None, *outside, "nul\0"]).cast(kind)
    pq.write_table(pa.table({"image": images}), folder / "in.parquet")
    rows = labels_of(folder / "in.parquet", tmp_path)
    assert [label for label, _ in rows] == ["red", "red", *[None] * 6]
    assert str(rows[-1][1]).startswith("ValueError: embedded null")
    assert [error for _, error in rows[2:4]] == [
        f"cannot read {str(folder / 'gone.png')!r}: No such file or directory",
        "the image is null",
    ]
    assert [error for _, error in rows[4:-1]] == [
        f"the image {str(folder / name)!r} lies outside '{folder}'; it is not read" for name in outside
    ]


def test_a_path_that_leaves_the_folder_is_refused_by_worker_processes_too(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "blue.png").write_bytes(picture("blue"))
    images = [{"bytes": picture("red"), "path": None}, {"bytes": None, "path": "../blue.png"}]
    source = write_images(tmp_path / "data/in.parquet", images, PATHS_AND_BYTES)
    output = tmp_path / "out.parquet"
    classify([source], prompts=colour_prompts(), output=output, encoder=LightEncoder(), running=Running(1))
    rows = pq.read_table(output).to_pylist()
    assert [row["label"] for row in rows] == ["red", None]
    assert "lies outside" in rows[1]["error"]


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ([None, "http://example.org/1.jpg"], r"the first is 'http://example.org/1.jpg'\); URLs are not fetched"),
        (
            ["a red flag", "gone.png", "long " * 99, "nul\0"],
            r"none of the first 4 names a file .*'a red flag'\); give bytes",
        ),
    ],
)
def test_strings_that_name_no_files_are_refused_before_anything_is_done(
    tmp_path: Path, values: Sequence[str | None], advice: str
):
    refused(write_images(tmp_path / "in.parquet", values, pa.string()), tmp_path, advice)
    assert not (tmp_path / "out.parquet.parts").exists()


def test_every_kind_of_column_passes_through(tmp_path: Path):
    table = pa.table(
        {
            "image": [picture("red"), picture("blue")],
            "a.b": [1, 2],
            "tags": [["x"], None],
            "when": pa.array([0, 1], pa.timestamp("us", "UTC")),
            "site": pa.array(["p", "q"]).dictionary_encode(),
            "box": [{"x": 1.5, "y": None}, None],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    labels_of(tmp_path / "in.parquet", tmp_path)
    assert pq.read_table(tmp_path / "predictions.parquet").select(table.schema.names).equals(table)


@pytest.mark.parametrize("rows_per_group", [1, 7, 1000])
def test_row_groups_do_not_show_in_the_output(tmp_path: Path, rows_per_group: int):
    table = pa.table({"image": [picture(name) for name in colours(23)], "id": list(range(23))})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=rows_per_group)
    assert [label for label, _ in labels_of(tmp_path / "in.parquet", tmp_path, shard_rows=5)] == colours(23)
    assert pq.read_table(tmp_path / "predictions.parquet", columns=["id"])["id"].to_pylist() == list(range(23))


def test_memory_stays_below_the_size_of_a_giant_row_group(tmp_path: Path):
    # Decoders ignore what lies behind a JPEG, so these are quick to decode and slow to hold.
    images = [picture("red", kind="JPEG") + np.random.default_rng(row).bytes(70_000) for row in range(1500)]
    pq.write_table(
        pa.table({"image": images}), tmp_path / "in.parquet", write_batch_size=8, data_page_size=1 << 16
    )  # pages of half a megabyte
    del images
    before, held = pa.total_allocated_bytes(), []
    classify(
        [tmp_path / "in.parquet"],
        prompts=colour_prompts(),
        output=tmp_path / "out.parquet",
        encoder=ToyEncoder(),
        running=Running(0, report=lambda event: held.append(pa.total_allocated_bytes() - before)),
    )
    assert pq.ParquetFile(tmp_path / "in.parquet").num_row_groups == 1
    assert len(held) == 9  # one of the prompts, six of encoding, two of writing
    assert max(held) < (tmp_path / "in.parquet").stat().st_size / 2
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 5


def test_a_missing_column_lists_the_columns_there_are(tmp_path: Path):
    pq.write_table(pa.table({"picture": [b""], "id": [1]}), tmp_path / "in.parquet")
    refused(tmp_path / "in.parquet", tmp_path, r"in\.parquet has no column 'image'; its columns are picture, id")


@pytest.mark.parametrize("values", [[1, 2], [[1.0]], [{"url": "x"}]], ids=["numbers", "lists", "other structs"])
def test_a_column_of_another_type_is_refused_with_its_type(tmp_path: Path, values: Sequence[object]):
    pq.write_table(pa.table({"image": values}), tmp_path / "in.parquet")
    found = pq.read_schema(tmp_path / "in.parquet").field(0).type
    refused(tmp_path / "in.parquet", tmp_path, f"column 'image' of .* is {found}; images are")


def test_mixed_schemas_name_both_files_and_the_fields_that_differ(tmp_path: Path):
    first = write_images(tmp_path / "a.parquet", [picture("red")], id=[1], extra=["x"])
    second = write_images(tmp_path / "b.parquet", [picture("red")], id=["1"])
    refused(
        [first, second],
        tmp_path,
        r"a\.parquet and .*b\.parquet differ in their columns: "
        "id is int64 in the first and string in the second; extra is string in the first and absent in the second",
    )


def test_missing_files_and_files_that_are_not_parquet_are_named(tmp_path: Path):
    refused(tmp_path / "none.parquet", tmp_path, r"there is no file or folder .*none\.parquet", FileNotFoundError)
    (tmp_path / "text.parquet").write_text("not parquet at all")
    refused(tmp_path / "text.parquet", tmp_path, r"text\.parquet cannot be read as Parquet")
    refused([], tmp_path, "no image files were given")


def test_a_damaged_page_is_an_error_that_names_the_file(tmp_path: Path):
    stream = io.BytesIO()
    noise = [np.random.default_rng(row).bytes(3000) for row in range(50)]
    pq.write_table(pa.table({"image": noise}), stream, compression="zstd", use_dictionary=False)
    content = bytearray(stream.getvalue())
    content[10:60] = bytes(50)
    (tmp_path / "in.parquet").write_bytes(content)
    refused(tmp_path / "in.parquet", tmp_path, r"in\.parquet cannot be read any further .*damaged", OSError)


def test_a_folder_stands_for_its_parquet_files(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for name, colour in (("b", "green"), ("a", "red")):
        pq.write_table(pa.table({"image": [picture(colour)]}), tmp_path / "images" / f"{name}.parquet")
    classify([tmp_path / "images"], prompts=colour_prompts(), output=tmp_path / "out.parquet", encoder=LightEncoder())
    assert pq.read_table(tmp_path / "out.parquet")["label"].to_pylist() == ["red", "green"]


def test_a_folder_without_parquet_files_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no \.parquet file"):
        classify([tmp_path], prompts=colour_prompts(), output=tmp_path / "out.parquet", encoder=LightEncoder())


def test_an_output_with_another_suffix_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"image": [picture("red")]}), tmp_path / "images.parquet")
    with pytest.raises(ValueError, match=r"would be Parquet; give it the suffix \.parquet"):
        classify(
            [tmp_path / "images.parquet"],
            prompts=colour_prompts(),
            output=tmp_path / "out.csv",
            encoder=LightEncoder(),
        )
