"""Batches of Parquet hold a bounded number of bytes unpacked, and pages that do not fit their checksums are errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.pairs import caption
from inputs.pictures import colour_prompts, picture
from rag_clip.classifiers.reuse import Reuse
from rag_clip.files.parquet_batches import bounded_batches, open_pages, unpacked_bytes
from rag_clip.images.labelled import read_file_labels
from rag_clip.images.opening import open_image_files
from rag_clip.images.rows import read_rows
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

MIB = 1 << 20


def batches(path: Path, *, most_rows: int = 256, most_bytes: int = 4 * MIB) -> list[pa.RecordBatch]:
    with open_pages(path) as file:
        groups = range(file.num_row_groups)
        return list(bounded_batches(file, groups, file.schema_arrow.names, most_rows=most_rows, most_bytes=most_bytes))


def heavy(colour: str, size: int) -> bytes:
    """Decoders ignore what lies behind a JPEG, so these are quick to decode and slow to hold."""
    return picture(colour, kind="JPEG") + np.random.default_rng(len(colour)).bytes(size)


def repeated(path: Path, size: int, rows: int, **columns: Sequence[object]) -> Path:
    """Write few different images over and over, each of which the file holds once."""
    images = [heavy(name, size) for name in ("red", "green", "blue")]
    table = pa.table({"image": [images[row % 3] for row in range(rows)], **columns})
    pq.write_table(table, path, dictionary_pagesize_limit=64 * MIB)
    assert path.stat().st_size < 5 * size
    return path


def test_batches_grow_from_one_row_to_the_most_rows_and_end_with_each_row_group(tmp_path: Path):
    pq.write_table(pa.table({"a": list(range(500))}), tmp_path / "t.parquet", row_group_size=300)
    held = batches(tmp_path / "t.parquet", most_rows=100)
    assert [batch.num_rows for batch in held] == [1, 4, 16, 64, 100, 100, 15, 100, 100]
    assert [value for batch in held for value in batch["a"].to_pylist()] == list(range(500))


@pytest.mark.parametrize(
    "options",
    [{"dictionary_pagesize_limit": 64 * MIB}, {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}],
    ids=["one dictionary", "shared prefixes"],
)
def test_rows_that_lie_in_the_file_once_count_as_often_as_they_stand(tmp_path: Path, options: dict[str, Any]):
    table = pa.table({"a": [b"x" * MIB] * 200})
    pq.write_table(table, tmp_path / "t.parquet", **options)
    assert (tmp_path / "t.parquet").stat().st_size < 3 * MIB
    held = batches(tmp_path / "t.parquet")
    assert max(map(unpacked_bytes, held)) < 5 * MIB
    assert pa.Table.from_batches(held).equals(table)


def test_long_runs_in_lists_count_as_often_as_they_stand(tmp_path: Path):
    table = pa.table({"a": pa.array([[7] * 100_000] * 100, pa.list_(pa.int64()))})
    pq.write_table(table, tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < MIB
    assert max(map(unpacked_bytes, batches(tmp_path / "t.parquet"))) < 5 * MIB


def test_large_rows_after_small_ones_make_the_next_batches_small(tmp_path: Path):
    pq.write_table(pa.table({"a": [b"s"] * 400 + [b"x" * MIB] * 200}), tmp_path / "t.parquet", use_dictionary=False)
    sizes = [batch.num_rows for batch in batches(tmp_path / "t.parquet", most_rows=64)]
    assert sizes[:6] == [1, 4, 16, 64, 64, 64]
    assert max(sizes[-20:]) <= 4
    assert sum(sizes) == 600


def test_dictionary_values_count_for_each_row(tmp_path: Path):
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, None], pa.int8()), [b"x" * 100, b"y" * 300])
    held = unpacked_bytes(pa.record_batch({"a": column}))
    assert 800 <= held <= 820 + 4 * 4


def test_rows_that_hold_too_much_come_in_several_tables(tmp_path: Path):
    path = repeated(tmp_path / "t.parquet", MIB, 40)
    [file] = open_image_files([path], image_column="image")
    tables = list(read_rows(file, [3, 37], most_bytes=8 * MIB))
    assert len(tables) > 3
    assert pa.concat_tables(tables).equals(pq.read_table(path))
    assert [len(table) for table in tables][:2] == [3, tables[1].num_rows]


def test_repeated_images_are_classified_and_indexed_in_bounded_memory(tmp_path: Path):
    path = repeated(tmp_path / "in.parquet", MIB, 200, caption=[caption("red")] * 200)
    before, held = pa.total_allocated_bytes(), list[int]()
    note = lambda event: held.append(pa.total_allocated_bytes() - before)  # noqa: E731
    common: dict[str, Any] = {"encoder": ToyEncoder(), "running": Running(0, 8, report=note)}
    classify([path], prompts=colour_prompts(), output=tmp_path / "out.parquet", **common)
    classified = max(held)
    held.clear()
    index_images([path], index=tmp_path / "index", noise=False, **common)
    assert max(classified, *held) < 100 * MIB
    written = pq.ParquetFile(tmp_path / "out.parquet")
    assert max(written.metadata.row_group(group).num_rows for group in range(written.num_row_groups)) < 64
    assert written.read(["image"]).equals(pq.read_table(path, columns=["image"]))


def with_checksums(path: Path, **options: Any) -> tuple[bytes, list[int]]:
    """Write images that cannot be told from damaged ones; return the file, and a place inside each image."""
    images = [picture("red", kind="JPEG") + np.random.default_rng(row).bytes(3000) for row in range(60)]
    table = pa.table({"image": images, "label": [f"label {row % 3}" for row in range(60)]})
    pages = {"data_page_size": 1 << 15, "write_batch_size": 8, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, compression="none", **pages, **options)
    content = path.read_bytes()
    return content, [content.index(image) + 2000 for image in images]


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("dictionary", [True, False])
def test_one_flipped_bit_of_any_image_is_seen(tmp_path: Path, dictionary: bool):
    path = tmp_path / "in.parquet"
    whole, places = with_checksums(path, use_dictionary=dictionary)
    for place in places:
        path.write_bytes(flipped(whole, place))
        [file] = open_image_files([path], image_column="image")
        with pytest.raises(OSError, match=r"in\.parquet cannot be read any further .*CRC.*; it may be damaged"):
            list(read_rows(file, [60], columns=["image"]))
    path.write_bytes(whole)
    assert len(next(read_rows(open_image_files([path], image_column="image")[0], [60]))) == 60


def test_one_flipped_bit_of_a_label_is_seen(tmp_path: Path):
    whole, _ = with_checksums(tmp_path / "in.parquet")
    (tmp_path / "in.parquet").write_bytes(flipped(whole, whole.index(b"label 1")))
    [file] = open_image_files([tmp_path / "in.parquet"], image_column="image")
    with pytest.raises(OSError, match=r"in\.parquet cannot be read any further .*CRC"):
        read_file_labels([file], "label")


def test_classify_ends_at_a_damaged_page_and_keeps_what_it_finished(tmp_path: Path):
    whole, places = with_checksums(tmp_path / "in.parquet", use_dictionary=False)
    (tmp_path / "in.parquet").write_bytes(flipped(whole, places[-1]))
    with pytest.raises(OSError, match="CRC"):
        classify(
            [tmp_path / "in.parquet"],
            prompts=colour_prompts(),
            output=tmp_path / "out.parquet",
            encoder=ToyEncoder(),
            running=Running(0, 10, shard_rows=10),
            reuse=Reuse(features_dir=tmp_path / "kept"),
        )
    assert not (tmp_path / "out.parquet").exists()
    assert len(list((tmp_path / "kept").rglob("*.parquet"))) == 2  # rows 0 to 20 came before
