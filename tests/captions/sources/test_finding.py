"""Every format and place that captions are read from."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_clip.captions.sources.finding import Columns, SourceError, find_sources, read_source, unreadable
from rag_clip.captions.sources.names import corpus_name

CAPTIONS = ["a red flag", "a blue flag", "été à la mer"]


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


def write(path: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def sample(key: str, **fields: Any) -> list[tuple[str, bytes]]:
    text = str(fields["caption"]).encode()
    return [(f"{key}.jpg", b"\xff\xd8" * 600), (f"{key}.json", json.dumps(fields).encode()), (f"{key}.txt", text)]


def read(*paths: str | Path, columns: Columns = Columns(), **options: int) -> list[dict[str, Any]]:  # noqa: B008
    return [
        row
        for source in find_sources(paths, columns=columns)
        for batch in read_source(source, **options)
        for row in batch.to_pylist()
    ]


def texts(*paths: str | Path, **options: Any) -> Sequence[object]:
    return [row["text"] for row in read(*paths, **options)]


LINES = "\n".join(CAPTIONS)
CSV = 'id,caption,URL\n1,a red flag,http://x/1\n2,"a blue flag",http://x/2\n3,été à la mer,\n'


@pytest.mark.parametrize("pack", [("", bytes), (".gz", gzip.compress), (".zst", zstd)], ids=["plain", "gz", "zst"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.txt", LINES),
        ("c.txt", "\ufeff" + LINES.replace("\n", "\r\n") + "\r\n"),
        ("c.csv", CSV),
        ("c.csv", CSV.replace(",", ";")),
        ("c.tsv", CSV.replace(",", "\t")),
        ("c.jsonl", "\n\n".join(json.dumps({"n": 1, "caption": text}) for text in CAPTIONS)),
        ("c.ndjson", "".join(json.dumps({"caption": text}, ensure_ascii=False) + "\n" for text in CAPTIONS)),
    ],
    ids=["txt", "txt_of_windows", "csv", "semicolons", "tsv", "jsonl", "ndjson"],
)
def test_text_formats_are_read_plain_and_compressed(tmp_path, name, content, pack):
    suffix, compress = pack
    path = tmp_path / (name + suffix)
    path.write_bytes(compress(content.encode()))
    assert [(row["row"], row["text"], row["error"], row["source"]) for row in read(path)] == [
        (place, text, None, "c") for place, text in enumerate(CAPTIONS)
    ]


@pytest.mark.parametrize("pack", [("", bytes), (".gz", gzip.compress), (".zst", zstd)], ids=["plain", "gz", "zst"])
@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.binary()],
    ids=str,
)
def test_parquet_columns_of_every_kind_of_string_are_read(tmp_path, kind, pack):
    suffix, compress = pack
    plain = write(tmp_path / "c.parquet", {"caption": pa.array([*CAPTIONS, None]).cast(kind)}, row_group_size=3)
    path = tmp_path / f"d.parquet{suffix}"
    path.write_bytes(compress(plain.read_bytes()))
    [source] = find_sources([path])
    assert (source.columns, source.rows, source.format) == (Columns(text="caption"), 4, "parquet")
    assert texts(path, batch_rows=2) == [*CAPTIONS, None]


def test_batches_are_full_across_row_groups_and_reading_starts_at_any_row(tmp_path):
    wanted = [f"caption {row}" for row in range(100)]
    columns = {"caption": wanted}
    paths = [write(tmp_path / f"{size}.parquet", columns, row_group_size=size) for size in (7, 100)]
    (tmp_path / "c.txt").write_text("\n".join(wanted))
    for path in (*paths, tmp_path / "c.txt"):
        [source] = find_sources([path])
        for start in (0, 6, 7, 50, 99, 100, 120):
            batches = list(read_source(source, batch_rows=30, start=start))
            rows = [row for batch in batches for row in batch.to_pylist()]
            assert [(row["row"], row["text"]) for row in rows] == list(enumerate(wanted))[start:]
            assert all(len(batch) == 30 for batch in batches[:-1])


def test_nested_columns_are_recognised_and_named_by_dotted_paths(tmp_path):
    values = [{"caption": "a red flag", "url": "http://x/1", "size": {"w": 3}}, None]
    path = write(tmp_path / "c.parquet", {"json": values, "a.b": ["x", "y"]})
    assert [(row["text"], row["url"]) for row in read(path)] == [("a red flag", "http://x/1"), (None, None)]
    columns = Columns(text="a.b", width="json.size.w")
    assert [(row["text"], row["width"]) for row in read(path, columns=columns)] == [("x", 3), ("y", None)]
    lines = tmp_path / "c.jsonl"
    lines.write_text('{"json": {"caption": "a red flag"}}\n{"json": null}\n{"a": 1}\n')
    assert texts(lines) == ["a red flag", None, None]


@pytest.mark.parametrize(
    "values",
    [
        {"captions": [["a", "b"], [], None, ["c"]]},
        {"sentences": [{"raw": ["a", "b"]}, {"raw": []}, None, {"raw": ["c"]}]},
        {"sentences": [[{"raw": "a"}, {"raw": "b"}], [], None, [{"raw": "c"}]]},
    ],
    ids=["lists", "struct_of_lists", "list_of_structs"],
)
def test_each_of_several_captions_of_an_image_is_a_row(tmp_path, values):
    path = write(tmp_path / "c.parquet", {**values, "url": ["u1", "u2", "u3", "u4"]}, row_group_size=2)
    [source] = find_sources([path])
    rows = [row for batch in read_source(source, batch_rows=2, start=1) for row in batch.to_pylist()]
    assert source.rows is None
    assert [(row["row"], row["text"], row["url"]) for row in rows] == [
        (1, "b", "u1"),
        (2, None, "u2"),
        (3, None, "u3"),
        (4, "c", "u4"),
    ]
    lines = tmp_path / "c.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in pq.read_table(path).to_pylist()))
    assert texts(lines) == ["a", "b", None, None, "c"]


def test_metadata_are_brought_to_one_form(tmp_path):
    columns = {
        "TEXT": ["a", "b", "c"],
        "URL": ["u1", None, "u3"],
        "WIDTH": [640.0, float("nan"), -1.0],
        "HEIGHT": ["480", "tall", None],
        "LANGUAGE": ["en", "de", None],
        "source": ["cc", None, "yfcc"],
    }
    [batch] = read_source(find_sources([write(tmp_path / "laion.parquet", columns)])[0])
    assert batch.to_pydict() == {
        "row": [0, 1, 2],
        "text": ["a", "b", "c"],
        "error": [None, None, None],
        "source": ["cc", "laion", "yfcc"],
        "url": ["u1", None, "u3"],
        "language": ["en", "de", None],
        "width": [640, None, None],
        "height": [480, None, None],
    }


def test_webdataset_tars_are_read_without_their_images(tmp_path):
    members = [
        *sample("0/00", caption="a red flag", url="u0", width=256, original_width=640, status="success"),
        ("0/01.jpg", b"\xff\xd8"),
        ("0/01.txt", b"a blue flag"),
        ("0/02.jpg", b"\xff\xd8"),
    ]
    path = write_tar(tmp_path / "00000.tar", members)
    [source] = find_sources([path])
    assert source.columns == Columns(text="caption", url="url", image="jpg", width="original_width")
    assert source.candidates == ("txt",)
    assert [(row["row"], row["text"], row["width"]) for row in read(path)] == [
        (0, "a red flag", 640),
        (1, None, None),
        (2, None, None),
    ]
    assert texts(path, columns=Columns(text="txt")) == ["a red flag", "a blue flag", None]
    for name, pack in (("00000.tar.gz", gzip.compress), ("00000.tgz", gzip.compress), ("00000.tar.zst", zstd)):
        (tmp_path / name).write_bytes(pack(path.read_bytes()))
        assert texts(tmp_path / name) == ["a red flag", None, None]


def test_a_folder_of_img2dataset_is_read_from_the_tables_beside_its_tars(tmp_path):
    folder = tmp_path / "cc3m"
    write(folder / "00000.parquet", {"caption": ["a", "failed"], "url": ["u", "v"], "status": ["success", "failed"]})
    write_tar(folder / "00000.tar", sample("000", caption="a"))
    write_tar(folder / "00001.tar", sample("001", caption="b"))
    (folder / "00000_stats.json").write_text("{}")
    assert [Path(source.url).name for source in find_sources([folder])] == ["00000.parquet", "00001.tar"]
    assert [(row["text"], row["source"]) for row in read(folder)] == [("a", "cc3m"), ("failed", "cc3m"), ("b", "cc3m")]


def test_folders_of_hugging_face_are_read_in_order_and_named_after_what_they_hold(tmp_path):
    for number in range(2):
        write(tmp_path / f"sets/data/train-0000{number}-of-00002.parquet", {"caption": [f"t{number}"]})
    write(tmp_path / "sets/default/validation/0000.parquet", {"caption": ["v"]})
    for name in ("README.txt", ".cache/x.parquet", "_SUCCESS.txt"):
        (tmp_path / "sets" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "sets" / name).write_text("no captions")
    rows = read(tmp_path / "sets")
    assert [(row["text"], row["source"]) for row in rows] == [("t0", "train"), ("t1", "train"), ("v", "validation")]
    assert read(tmp_path / "sets/**/*.parquet", tmp_path / "sets/data") == rows


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/data/web.parquet", "web"),
        ("/data/web.csv.gz", "web"),
        ("/data/v1.2.TAR", "v1.2"),
        ("/data/cc/train-00003-of-00010.parquet", "train"),
        ("/data/cc/00000.tar", "cc"),
        ("s3://bucket/cc/0000.parquet", "cc"),
        ("/data/cc/part-00000-0a1b.snappy.parquet", "cc"),
        ("/data/2017-captions.txt", "2017-captions"),
        ("0.txt", "0"),
    ],
)
def test_rows_are_named_after_the_corpus_and_not_after_its_shards(url, name):
    assert corpus_name(url) == name


def test_urls_of_fsspec_are_files_folders_and_globs():
    filesystem = fsspec.filesystem("memory")
    buffer = io.BytesIO()
    pq.write_table(pa.table({"caption": ["one"]}), buffer)
    filesystem.pipe("/corpus/data/a.parquet", buffer.getvalue())
    filesystem.pipe("/corpus/data/b.parquet", buffer.getvalue())
    filesystem.pipe("/corpus/c.txt.gz", gzip.compress(b"two\nthree"))
    assert [source.url for source in find_sources(["memory://corpus"])] == [
        "memory:///corpus/data/a.parquet",
        "memory:///corpus/data/b.parquet",
    ]
    assert texts("memory://corpus/data/*.parquet", "memory://corpus/c.txt.gz") == ["one", "one", "two", "three"]
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: memory://corpus/absent"):
        find_sources(["memory://corpus/absent"])
    with pytest.raises(FileNotFoundError, match=r"no such file: memory://corpus/absent\.csv"):
        find_sources(["memory://corpus/absent.csv"])


def test_the_identity_changes_with_the_file_and_only_then(tmp_path):
    path = tmp_path / "c.txt"
    identities = []
    for content in ("one", "one two"):
        path.write_text(content)
        identities += [find_sources([path])[0].identity for _ in range(2)]
        fsspec.filesystem("memory").pipe("/identity.txt", content.encode())
        identities += [find_sources(["memory://identity.txt"])[0].identity for _ in range(2)]
    assert identities[::2] == identities[1::2]
    assert len(set(identities)) == 4


def test_unreadable_rows_are_dropped_under_their_reason(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'{"caption": "a"}\n[1]\n{"caption": 5}\n{"caption": null}\n{"caption": "\\ud800"}\n')
    [source] = find_sources([path])
    kept = unreadable(pa.Table.from_batches(read_source(source)))
    assert kept.selected.column("row").to_pylist() == [0, 3]
    assert kept.dropped.column("row").to_pylist() == [1, 2, 4]
    assert kept.reason == ("malformed", "malformed", "bad_encoding")


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("cats,http://x/1\ndogs,http://x/2\n", [("cats", "http://x/1"), ("dogs", "http://x/2")]),
        ("http://x/1,cats\n,dogs\n", [("cats", "http://x/1"), ("dogs", "")]),
    ],
)
def test_tables_without_a_header_are_recognised_by_their_urls(tmp_path, content, rows):
    path = tmp_path / "cc.tsv"
    path.write_text(content.replace(",", "\t"))
    assert [(row["text"], row["url"]) for row in read(path)] == rows


def test_columns_of_a_table_without_a_header_are_named_by_number(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("7,cats\n8,dogs\n")
    assert texts(path, columns=Columns(text="column_2")) == ["cats", "dogs"]


def test_nothing_given_is_an_error():
    with pytest.raises(ValueError, match="no files of captions were given"):
        find_sources([])
    assert issubclass(SourceError, OSError)


def test_a_table_is_read_as_its_parquet_file_from_any_row(tmp_path: Path) -> None:
    rows = {"captions": [["a", "b"], [], None, ["c"]], "url": ["u", "v", "w", "x"], "dataset": ["d", None, "e", "d"]}
    path = write(tmp_path / "frame.parquet", rows)
    for start in (0, 1, 3):
        [in_memory] = find_sources([pa.table(rows)])
        [on_disk] = find_sources([path])
        read_both = [list(read_source(source, batch_rows=2, start=start)) for source in (in_memory, on_disk)]
        assert read_both[0] == read_both[1]
        assert sum(map(len, read_both[0])) == 5 - start
    assert (in_memory.rows, in_memory.columns, in_memory.name) == (None, on_disk.columns, "frame")


def test_the_identity_of_a_table_is_its_content() -> None:
    [table, chunked, other] = (
        find_sources([table])[0]
        for table in (
            pa.table({"text": ["a", "b"]}),
            pa.concat_tables([pa.table({"text": ["a"]}), pa.table({"text": ["b"]})]),
            pa.table({"text": ["a", "c"]}),
        )
    )
    assert (table.url, table.identity, table.rows) == (chunked.url, chunked.identity, 2)
    assert table.identity != other.identity
    with pytest.raises(ValueError, match="the frame has no column that looks like captions; name it, one of: n"):
        find_sources([pa.table({"n": [1]})])
