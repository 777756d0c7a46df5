"""What passes from images to predictions is equal to what came in, or its column is refused before any work."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.kept_types import FAR, arrow_columns, arrow_only_columns, polars_columns
from inputs.pictures import colour_prompts, picture
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

ARROW, ARROW_ONLY, POLARS = arrow_columns(), arrow_only_columns(), polars_columns()


def classified(paths: list[Path], output: Path) -> pa.Table:
    classify(paths, prompts=colour_prompts(), output=output, encoder=ToyEncoder(), running=Running(0))
    return pq.read_table(output)


def refused(paths: list[Path], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classified(paths, paths[0].with_name("out.parquet"))
    assert sorted(paths[0].parent.iterdir()) == sorted(paths)  # no features, no output: no image was encoded


def write(path: Path, columns: dict[str, Any], *, rows: int = 4, times: int = 1, **options: Any) -> Path:
    table = pa.table({"image": pa.array([picture("red")] * rows, pa.binary()), **columns})
    pq.write_table(pa.concat_tables([table] * times), path, **options)
    return path


def same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    """Tell whether values are equal; NaN is equal to itself, and 0.0 is not equal to -0.0."""
    if pa.types.is_floating(left.type):
        return repr(left.to_pylist()) == repr(right.to_pylist())
    return left.cast(right.type).equals(right)


@pytest.fixture(scope="module")
def arrow_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three row groups of each column, as read and as passed through; with Arrow's types in the file and without."""
    folder = tmp_path_factory.mktemp("arrow")
    for name, columns in (("both", ARROW), ("arrow", ARROW_ONLY)):
        for stored in (True, False):
            kind = f"{name} {'typed' if stored else 'bare'}"
            path = folder / f"{kind}.parquet"
            write(path, columns, times=3, row_group_size=4, store_schema=stored)
            classified([path], folder / f"{kind} out.parquet")
    return {path.stem: path for path in folder.iterdir()}


def expected_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind) and kind.index_type.bit_width < 32:
        return pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    if pa.types.is_struct(kind) and pa.types.is_dictionary(kind.field(0).type):
        return pa.struct([kind.field(0).with_type(expected_type(kind.field(0).type))])
    if pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type):
        return pa.list_(expected_type(kind.value_type))
    return kind


@pytest.mark.parametrize("stored", ["typed", "bare"])
@pytest.mark.parametrize(("name", "file"), [*((n, "both") for n in ARROW), *((n, "arrow") for n in ARROW_ONLY)])
def test_every_type_of_arrow_passes_through(arrow_files: dict[str, Path], name: str, file: str, stored: str):
    came, went = (pq.read_table(arrow_files[f"{file} {stored}{end}"], columns=[name])[name] for end in ("", " out"))
    assert len(went) == 12
    assert went.type == expected_type(came.type)
    assert same(came, went)


# Without Arrow's types in the file, polars takes a null for an Int32 and JSON for bytes; with them, for what they are.
READ_BETTER = {"null", "list of nulls", "struct of a null", "json"}


@pytest.mark.parametrize("name", ARROW)
@pytest.mark.parametrize("stored", ["typed", "bare"])
def test_polars_reads_the_types_of_arrow_as_it_did_before(arrow_files: dict[str, Path], name: str, stored: str):
    came, went = (pl.read_parquet(arrow_files[f"both {stored}{end}"], columns=[name])[name] for end in ("", " out"))
    if stored == "typed" or name not in READ_BETTER:
        assert went.dtype == came.dtype
        assert went.equals(came, null_equal=True)
    assert went.null_count() == came.null_count()


@pytest.mark.parametrize("name", POLARS)
def test_every_type_of_polars_passes_through(tmp_path: Path, name: str):
    frame = pl.DataFrame({"image": [picture("red")] * 4, "v": POLARS[name]})
    frame.write_parquet(tmp_path / "in.parquet", row_group_size=2)
    went = classified([tmp_path / "in.parquet"], tmp_path / "out.parquet")
    assert pl.read_parquet(tmp_path / "out.parquet").select("image", "v").equals(frame)
    assert pl.read_parquet(tmp_path / "out.parquet")["v"].dtype == frame["v"].dtype
    came = pq.read_table(tmp_path / "in.parquet")["v"]
    assert went["v"].cast(came.type).unify_dictionaries().equals(came.unify_dictionaries())


@pytest.mark.parametrize("nested", [False, True])
def test_row_groups_with_other_categories_in_one_byte_make_a_file_that_can_be_read(tmp_path: Path, nested: bool):
    names = [f"camera {number}" for number in range(400)]
    kind = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([("image", pa.binary()), ("camera", pa.struct([("name", kind)]) if nested else kind)])
    with pq.ParquetWriter(tmp_path / "in.parquet", schema) as writer:
        for start in range(0, 400, 100):
            codes = pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), names[start : start + 100])
            column = pa.StructArray.from_arrays([codes], ["name"]) if nested else codes
            writer.write_table(pa.Table.from_arrays([pa.array([picture("red")] * 100), column], schema=schema))
    went = classified([tmp_path / "in.parquet"], tmp_path / "out.parquet")
    expected = [{"name": name} for name in names] if nested else names
    assert went["camera"].to_pylist() == expected
    assert pl.read_parquet(tmp_path / "out.parquet")["camera"].to_list() == expected
    assert pl.read_parquet(tmp_path / "in.parquet")["camera"].to_list() == expected


def int96(path: Path, values: Sequence[object], kind: pa.DataType) -> Path:
    column = pa.array(values, kind)
    return write(path, {"when": column}, rows=len(values), use_deprecated_int96_timestamps=True, store_schema=False)


@pytest.mark.parametrize("nested", [False, True])
def test_int96_timestamps_of_any_year_pass_through(tmp_path: Path, nested: bool):
    kind = pa.timestamp("us")
    values = [[{"t": value}] for value in FAR] if nested else FAR
    path = int96(tmp_path / "in.parquet", values, pa.list_(pa.struct({"t": kind})) if nested else kind)
    went = classified([path], tmp_path / "out.parquet")
    assert went["when"].to_pylist() == values
    assert pl.read_parquet(tmp_path / "out.parquet")["when"].to_list() == values


def test_int96_timestamps_near_today_keep_their_nanoseconds(tmp_path: Path):
    path = int96(tmp_path / "in.parquet", [0, 1, None, -8_520_336_000_000_000_001], pa.timestamp("ns"))
    went = classified([path], tmp_path / "out.parquet")["when"]
    assert went.cast(pa.int64()).to_pylist() == [0, 1, None, -8_520_336_000_000_000_001]


def test_int96_timestamps_far_in_one_file_are_of_one_unit_in_all(tmp_path: Path):
    paths = [
        int96(tmp_path / "a.parquet", [dt.datetime(2026, 1, 1), None], pa.timestamp("us")),
        int96(tmp_path / "b.parquet", [FAR[1], FAR[0]], pa.timestamp("us")),
    ]
    went = classified(paths, tmp_path / "out.parquet")["when"]
    assert went.type == pa.timestamp("us")
    assert went.to_pylist() == [dt.datetime(2026, 1, 1), None, FAR[1], FAR[0]]


def test_int96_timestamps_both_far_and_fine_are_refused(tmp_path: Path):
    fine = int96(tmp_path / "a.parquet", [1], pa.timestamp("ns"))
    far = int96(tmp_path / "b.parquet", FAR, pa.timestamp("us"))
    refused([fine, far], r"'when' of .*b\.parquet has INT96 .* 'when' of .*a\.parquet has fractions of a microsecond")


def test_a_list_of_no_values_is_refused_by_its_column(tmp_path: Path):
    values = pl.Series([[], [], None, []], dtype=pl.Array(pl.Int32, 0))
    pl.DataFrame({"image": [picture("red")] * 4, "nothing": values}).write_parquet(tmp_path / "in.parquet")
    refused([tmp_path / "in.parquet"], r"column 'nothing' of .*in\.parquet is fixed_size_list.* cannot be kept")


def test_integers_of_128_bits_are_refused_by_their_column(tmp_path: Path):
    values = pl.Series([2**100], dtype=pl.Int128)
    pl.DataFrame({"image": [picture("red")], "wide": values}).write_parquet(tmp_path / "in.parquet")
    refused([tmp_path / "in.parquet"], r"in\.parquet cannot be read .*64 bits.*; write column 'wide' in another type")


def test_a_dictionary_that_cannot_be_read_is_refused_by_its_column(tmp_path: Path):
    column = pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), [f"a{row}" for row in range(100)])
    other = pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), [f"b{row}" for row in range(100)])
    schema = pa.schema([("image", pa.binary()), ("camera", column.type)])
    images = pa.array([picture("red")] * 200)
    table = pa.Table.from_arrays([images, pa.chunked_array([column, other])], schema=schema)
    pq.write_table(table, tmp_path / "in.parquet")  # one row group of 200 categories in one byte
    refused([tmp_path / "in.parquet"], r"column 'camera' of .*in\.parquet is dictionary<.* cannot be kept \(.*128")


@pytest.mark.parametrize("rows", [0, 4])
def test_empty_files_pass_their_columns(tmp_path: Path, rows: int):
    columns = {name: column[:0] for name, column in ARROW.items()}
    paths = [write(tmp_path / "none.parquet", columns, rows=0)]
    if rows:
        paths.append(write(tmp_path / "some.parquet", ARROW))
    went = classified(paths, tmp_path / "out.parquet")
    assert len(went) == rows
    assert went.column_names[: len(ARROW) + 1] == ["image", *ARROW]
    assert all(same(pa.chunked_array([ARROW[name][:rows]]), went[name]) for name in ARROW)


def test_notes_that_list_all_columns_go_and_others_stay(tmp_path: Path):
    spark = {"type": "struct", "fields": [{"name": "image"}]}
    metadata = {"org.apache.spark.sql.parquet.row.metadata": json.dumps(spark), "pandas": "{}", "mine": "kept"}
    table = pa.table({"image": [picture("red")]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "in.parquet")
    went = classified([tmp_path / "in.parquet"], tmp_path / "out.parquet").schema.metadata
    assert went.keys() == {b"pandas", b"mine", b"rag_clip"}


def hugging_face(path: Path, names: list[str], **more: Any) -> Path:
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}, **more}
    table = pa.table({"image": [picture("red")], "label": [0]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    return path


def test_names_of_classes_that_hugging_face_notes_stay_beside_the_columns_added(tmp_path: Path):
    path = hugging_face(tmp_path / "in.parquet", ["cat", "dog"])
    went = classified([path], tmp_path / "out.parquet").schema
    features = json.loads(went.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == went.names
    assert features["label"] == {"names": ["cat", "dog"], "_type": "ClassLabel"}
    assert features["predicted_score"] == {"dtype": "float32", "_type": "Value"}
    assert features["predicted_top_k_labels"] == {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}


def test_names_of_classes_that_files_disagree_on_do_not_stay(tmp_path: Path):
    paths = [hugging_face(tmp_path / "a.parquet", ["cat", "dog"]), hugging_face(tmp_path / "b.parquet", ["dog", "cat"])]
    assert b"huggingface" not in classified(paths, tmp_path / "out.parquet").schema.metadata
    other = hugging_face(tmp_path / "c.parquet", ["cat"], gone={"dtype": "string", "_type": "Value"})
    assert b"huggingface" not in classified([other], tmp_path / "other.parquet").schema.metadata
