"""What is wrong with people's files, and what becomes of it."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rag_clip.captions.sources.finding import Columns, SourceError, find_sources, read_source
from rag_clip.captions.sources.formats import MAX_LINE_BYTES
from rag_clip.captions.sources.parquet_rows import open_parquet, parquet_tables
from rag_clip.captions.sources.values import MAX_TEXT_BYTES


def read(path: Path, columns: Columns = Columns()) -> tuple[list[tuple[object, object]], str]:  # noqa: B008
    """Read (text, error) of every row that can be had, and the damage met."""
    rows: list[tuple[object, object]] = []
    try:
        for source in find_sources([path], columns=columns):
            for batch in read_source(source, batch_rows=100):
                assert batch.column("row").to_pylist() == list(range(len(rows), len(rows) + len(batch)))
                rows += zip(batch.column("text").to_pylist(), batch.column("error").to_pylist(), strict=True)
    except SourceError as error:
        return rows, str(error)
    return rows, ""


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


NUMBERED = [f"caption number {row} of a corpus {row * 7919 % 10007}" for row in range(5000)]


@pytest.mark.parametrize("name", ["c.txt.gz", "c.txt.zst", "c.jsonl.gz", "c.csv.zst"])
def test_a_compressed_file_cut_short_gives_its_rows_before_the_cut(tmp_path, name):
    lines = [json.dumps({"caption": text}) for text in NUMBERED] if "jsonl" in name else NUMBERED
    content = "\n".join(["caption", *lines] if "csv" in name else lines).encode()
    packed = gzip.compress(content, mtime=0) if name.endswith("gz") else pa.compress(content, "zstd", asbytes=True)
    path = tmp_path / name
    path.write_bytes(packed[: len(packed) * 9 // 10])
    rows, damage = read(path)
    assert [text for text, _ in rows] == NUMBERED[: len(rows)]
    assert len(rows) > 2500
    assert damage.startswith(f"{path} is damaged or cannot be read from row {len(rows)} on: ")


def test_a_corrupt_page_of_parquet_costs_no_row_before_it(tmp_path):
    path = write(
        tmp_path / "c.parquet",
        {"caption": NUMBERED},
        row_group_size=1000,
        use_dictionary=False,
        write_page_checksum=True,
    )
    column = pq.read_metadata(path).row_group(3).column(0)
    content = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle : middle + 8] = b"\0" * 8
    path.write_bytes(content)
    rows, damage = read(path)
    assert [text for text, _ in rows] == NUMBERED[:3000]
    assert damage.startswith(f"{path} is damaged or cannot be read from row 3000 on: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [("c.parquet", b"PAR1 not Parquet"), ("c.tar", b""), ("c.tar", b"not a tar" * 200), ("c.txt.gz", b"plain text")],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"{name} is not a readable \w+ file: "):
        find_sources([tmp_path / name])


def test_text_in_utf_16_is_refused(tmp_path):
    (tmp_path / "c.txt").write_bytes("a red flag".encode("utf-16"))
    with pytest.raises(SourceError, match="its text is UTF-16; convert it to UTF-8"):
        find_sources([tmp_path / "c.txt"])


# A sample is seven blocks of 512 bytes: header and four of the image, header and one of the text.
SAMPLES = [
    (f"{key}.{kind}", f"caption {key}".encode() * (200 if kind == "jpg" else 1))
    for key in range(9)
    for kind in ("jpg", "txt")
]


@pytest.mark.parametrize(
    ("blocks", "whole"),
    [(3, 0), (5.5, 0), (6.01, 0), (16, 2), (12.5, 1), (14, 1), (15.1, 2), (63, 8)],
    ids=["image", "header", "text", "image_3", "header_2", "between_samples", "image_header_3", "no_end_mark"],
)
def test_a_truncated_tar_gives_the_samples_that_are_known_to_be_whole(tmp_path, blocks, whole):
    path = write_tar(tmp_path / "c.tar", SAMPLES)
    path.write_bytes(path.read_bytes()[: int(blocks * 512)])
    rows, damage = read(path)
    assert rows == [(f"caption {key}", None) for key in range(whole)]
    assert damage.startswith(f"{path} is ")


def test_a_corrupt_header_in_a_tar_is_damage_and_not_its_end(tmp_path):
    path = write_tar(tmp_path / "c.tar", [(f"{key}.txt", b"caption") for key in range(4)])
    content = bytearray(path.read_bytes())
    content[2 * 1024 : 2 * 1024 + 100] = b"\xff" * 100
    path.write_bytes(content)
    rows, damage = read(path)
    assert rows == [("caption", None)]
    assert damage.endswith(
        "c.tar is damaged or cannot be read from row 1 on: no valid header at byte 2048 (bad checksum)"
    )


def test_names_in_a_tar_that_lead_outside_and_links_are_left_out(tmp_path):
    names = ("../a.txt", "/etc/b.txt", "x/../../c.txt", "d.txt")
    path = write_tar(tmp_path / "c.tar", [(name, b"good") for name in names])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("e.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert read(path) == ([(None, "unsafe_name")] * 3 + [("good", None)], "")


def test_a_header_of_a_tar_that_claims_gigabytes_is_not_read(tmp_path):
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 5 << 30
    path = write_tar(tmp_path / "c.tar", [("a.txt", b"good"), ("b.txt", b"cut")])
    path.write_bytes(path.read_bytes()[:2048] + member.tobuf(tarfile.USTAR_FORMAT) + bytes(10240))
    rows, damage = read(path)
    assert (rows, "claims 5368709120 bytes" in damage) == ([("good", None)], True)


def test_rows_that_are_not_utf_8_are_left_out_alone(tmp_path):
    lines = [b"good", b"caf\xe9", b"", b"caf\xc3\xa9"]
    wanted = [("good", None), (None, "bad_encoding"), ("", None), ("café", None)]
    (tmp_path / "c.txt").write_bytes(b"\n".join(lines))
    (tmp_path / "c.csv").write_bytes(b"caption,n\n" + b",1\n".join(lines) + b",1\n")
    (tmp_path / "c.tsv").write_bytes(b"caption\tn\n" + b"\t1\n".join(lines) + b"\t1\n")
    write(tmp_path / "c.parquet", {"caption": pa.Array.from_buffers(pa.string(), 4, pa.array(lines).buffers())})
    write_tar(tmp_path / "c.tar", [(f"{key}.txt", line) for key, line in enumerate(lines)])
    for name in ("c.txt", "c.csv", "c.tsv", "c.parquet", "c.tar"):
        assert read(tmp_path / name) == (wanted, ""), name
    (tmp_path / "c.jsonl").write_bytes(b"\n".join(b'{"caption": "%s"}' % line for line in lines))
    assert read(tmp_path / "c.jsonl") == ([("good", None), (None, "malformed"), *wanted[2:]], "")


def test_a_line_without_an_end_is_passed_over_in_bounded_memory(tmp_path):
    endless = b"x" * (24 << 20)
    contents = {
        "c.txt": b"good\n%s\nlast",
        "c.jsonl": b'{"caption": "good"}\n{"caption": "%s"}\n{"caption": "last"}',
        "c.csv": b"caption,n\ngood,1\n%s,1\nlast,1\n",
        "c.tsv": b"caption\tn\ngood\t1\n%s\t1\nlast\t1\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content % endless)
        tracemalloc.start()
        rows = read(tmp_path / name)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows == ([("good", None), (None, "oversized"), ("last", None)], ""), name
        assert peak < 6 * MAX_LINE_BYTES, name


@pytest.mark.parametrize("length", [MAX_TEXT_BYTES, MAX_TEXT_BYTES + 1])
def test_a_caption_longer_than_the_limit_is_left_out(tmp_path, length):
    text = "x" * length
    wanted = [(text, None) if length == MAX_TEXT_BYTES else (None, "oversized"), ("good", None)]
    (tmp_path / "c.txt").write_text(f"{text}\ngood")
    (tmp_path / "c.csv").write_text(f'caption,n\n"{text}",1\ngood,1\n')
    (tmp_path / "c.jsonl").write_text(json.dumps({"caption": text}) + '\n{"caption": "good"}')
    write(tmp_path / "c.parquet", {"caption": [text, "good"]})
    write_tar(tmp_path / "c.tar", [("1.txt", text.encode()), ("2.txt", b"good")])
    for name in ("c.txt", "c.csv", "c.jsonl", "c.parquet", "c.tar"):
        assert read(tmp_path / name) == (wanted, ""), name


def test_a_text_of_a_tar_longer_than_a_line_is_not_read(tmp_path):
    path = write_tar(tmp_path / "c.tar", [("1.txt", b"x" * (MAX_LINE_BYTES + 1)), ("2.txt", b"good")])
    assert read(path) == ([(None, "oversized"), ("good", None)], "")


def test_large_texts_of_parquet_are_decoded_a_few_at_a_time(tmp_path):
    path = write(tmp_path / "c.parquet", {"caption": ["x" * (8 << 20)] * 9 + ["good"]}, use_dictionary=False)
    with open_parquet(str(path), None) as file:
        decoded = [table.num_rows for table in parquet_tables(file, Columns(text="caption"), [0], 4096)]
    assert decoded == [1, 3, 3, 3]
    assert read(path) == ([(None, "oversized")] * 9 + [("good", None)], "")


def test_an_open_quote_in_csv_costs_its_own_row_only(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text('caption,n\n"open,1\nsecond,2\nthird,"3"\n"two\nlines",4\nfifth\nsixth,6,6\n\n"open,7\nlast,8')
    assert read(path) == (
        [
            (None, "malformed"),
            ("second", None),
            ("third", None),
            ("two\nlines", None),
            (None, "malformed"),
            (None, "malformed"),
            (None, "malformed"),
            ("last", None),
        ],
        "",
    )


def test_bad_lines_of_json_are_left_out_alone(tmp_path):
    path = tmp_path / "c.jsonl"
    bad = ["{", "[1]", '"text"', "[" * 100_000, '{"caption": {"a": 1}}', '{"caption": 1}', "1" * 5000]
    path.write_text("\n".join(['{"caption": "good"}', *bad, '{"caption": "last"}']))
    assert read(path) == ([("good", None), *[(None, "malformed")] * len(bad), ("last", None)], "")


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        (
            {"text": ["a"], "n": [1]},
            Columns(text="caption"),
            r"no column 'caption'; name the .* one of: text \(string\), n \(int64\)",
        ),
        ({"caption": [1]}, Columns(text="caption"), "column 'caption' of .*c.parquet holds int64, not strings"),
        ({"caption": ["a"], "source": [1]}, Columns(source="source"), "column 'source' of .* holds int64, not strings"),
        ({"caption": ["a"], "w": [[1]]}, Columns(width="w"), r"column 'w' of .* holds list<.*, not numbers"),
        ({"caption": [1], "key": ["a"]}, Columns(), r"no column that looks like captions; name it, one of: caption"),
    ],
)
def test_columns_that_are_missing_or_no_captions_are_refused_by_name(tmp_path, columns, wanted, message):
    with pytest.raises(ValueError, match=message):
        find_sources([write(tmp_path / "c.parquet", columns)], columns=wanted)


def test_a_column_missing_in_one_of_many_files_is_an_error_that_names_the_file(tmp_path):
    write(tmp_path / "corpus/a.parquet", {"caption": ["a"], "alt": ["b"]})
    write(tmp_path / "corpus/b.parquet", {"alt": ["b"]})
    with pytest.raises(ValueError, match=r"b\.parquet are in column 'alt', those of .*a\.parquet in 'caption'; name"):
        find_sources([tmp_path / "corpus"])
    with pytest.raises(ValueError, match=r"b\.parquet has no column 'caption'"):
        find_sources([tmp_path / "corpus"], columns=Columns(text="caption"))
    named = find_sources([tmp_path / "corpus"], columns=Columns(text="alt"))
    one_by_one = find_sources([tmp_path / "corpus/a.parquet", tmp_path / "corpus/b.parquet"])
    assert [source.columns.text for source in (*named, *one_by_one)] == ["alt", "alt", "caption", "alt"]


def test_links_that_lead_out_of_a_folder_are_refused(tmp_path):
    outside = write(tmp_path / "outside/secret.parquet", {"caption": ["secret"]})
    inside = write(tmp_path / "corpus/a.parquet", {"caption": ["a"]})
    (tmp_path / "corpus/again.parquet").symlink_to(inside)
    (tmp_path / "corpus/loop").symlink_to(tmp_path / "corpus")
    assert [Path(source.url).name for source in find_sources([tmp_path / "corpus"])] == ["a.parquet"]
    for link, target in (("b.parquet", outside), ("deeper", outside.parent)):
        (tmp_path / "corpus" / link).symlink_to(target)
        with pytest.raises(ValueError, match=rf"{link} is a link that leads out of .*corpus; remove it, or give the"):
            find_sources([tmp_path / "corpus"])
        if link == "b.parquet":
            with pytest.raises(ValueError, match=r"b\.parquet is a link that leads out of .*corpus"):
                find_sources([tmp_path / "corpus/*.parquet"])
        (tmp_path / "corpus" / link).unlink()


def test_links_of_the_hugging_face_cache_are_followed(tmp_path):
    blob = write(tmp_path / "repository/blobs/0123abcd", {"caption": ["a"]})
    folder = tmp_path / "repository/snapshots/main/data"
    folder.mkdir(parents=True)
    (folder / "train-00000-of-00001.parquet").symlink_to(blob)
    assert [source.name for source in find_sources([tmp_path / "repository/snapshots/main"])] == ["train"]


def test_paths_that_lead_to_no_captions_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.docx").write_text("a")
    for given, kind, message in (
        ("absent.parquet", FileNotFoundError, r"no such file: .*absent\.parquet"),
        ("empty", ValueError, r"the folder .*empty holds no file of captions \(\.parquet, \.csv, "),
        ("*.tsv", ValueError, r"\*\.tsv matches no file of captions"),
        ("c.docx", ValueError, r"c\.docx is of no known kind; its name must end in one of \.parquet"),
    ):
        with pytest.raises(kind, match=message):
            find_sources([tmp_path / given])
    with pytest.raises(ValueError, match=r"needs one more package|not known"):
        find_sources(["nosuchprotocol://bucket/c.parquet"])
