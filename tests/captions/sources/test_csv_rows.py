"""CSV and TSV as programs write them, and tables that are named .txt: whole captions, or the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rag_clip.captions.sources.finding import Columns, SourceError, find_sources, read_source
from rag_clip.evaluation.rival_names import read_candidates


def read(path: Path, columns: Columns = Columns()) -> Sequence[object]:  # noqa: B008
    """Return the text of every row, or its reason."""
    [source] = find_sources([path], columns=columns)
    return [
        row["error"] or row["text"] for batch in read_source(source, batch_rows=2, start=0) for row in batch.to_pylist()
    ]


def write(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


@pytest.mark.parametrize(
    ("content", "kind", "captions"),
    [
        (
            'image,caption\na.jpg,a pink dress .\na.jpg,"a girl , going in ."\n',
            "csv",
            ["a pink dress .", "a girl , going in ."],
        ),
        ("url;alt\nhttp://x/1;a dog, a cat\n", "csv", ["a dog, a cat"]),
        ("image|caption\n1.jpg|a dog, big\n", "csv", ["a dog, big"]),
        ('caption\turl\n"line one\nline two"\thttp://x\n', "tsv", ["line one\nline two"]),
        ("1000_a.jpg#0\ta child\n1000_a.jpg#1\ta girl\n", "tsv", ["a child", "a girl"]),
        ("1.jpg|a dog, big\n2.jpg|a cat, small\n", "csv", ["a dog, big", "a cat, small"]),
        ("a dog,http://x/1\na cat,http://x/2\n", "csv", ["a dog", "a cat"]),
        ('{"caption": "a dog"}\n{"caption": "a cat"}\n', "jsonl", ["a dog", "a cat"]),
        ("Paris, France\nBerlin, Germany\n", "txt", ["Paris, France", "Berlin, Germany"]),
        (
            "a title, and a caption\nphoto: text | more\ttabs\n",
            "txt",
            ["a title, and a caption", "photo: text | more\ttabs"],
        ),
        ("http://x/1\nhttp://x/2\n", "txt", ["http://x/1", "http://x/2"]),
        ('[a "joke"]\n{x}\n', "txt", ['[a "joke"]', "{x}"]),
    ],
)
def test_a_txt_file_is_read_as_what_its_lines_are(tmp_path, content, kind, captions):
    path = write(tmp_path, "captions.txt", content)
    assert ([source.format for source in find_sources([path])], read(path)) == ([kind], captions)


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (
            "image,caption\n1.jpg,a dog, big\n2.jpg,a, b\n",
            SourceError,
            r"names columns, but 0 of the next 2 rows have as",
        ),
        (
            "1.jpg a dog\n2.jpg a cat\n",
            SourceError,
            "begins with the name or address of an image and a space; put a tab",
        ),
        ("1\ta dog\n2\ta cat\tbig\n", SourceError, "every line has tabs, but not as many"),
        (
            "7\tcats\n8\tdogs\n",
            ValueError,
            r"has no column that looks like captions; name it, one of: 7 \(string\), cats",
        ),
    ],
)
def test_a_txt_file_that_is_neither_captions_nor_a_table_is_refused_with_the_reason(tmp_path, content, kind, reason):
    with pytest.raises(kind, match=reason):
        find_sources([write(tmp_path, "captions.txt", content)])


def test_names_in_a_table_called_txt_are_phrases_of_its_captions(tmp_path):
    table = write(tmp_path, "captions.txt", "image,caption\n" + "a.jpg,a red flag\n" * 20)
    assert "red flag" in read_candidates(table).names
    assert not [name for name in read_candidates(table).names if "jpg" in name]
    assert read_candidates(write(tmp_path, "words.txt", "red flag\nblue sky\n")).names == ("red flag", "blue sky")


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('"line one\nline two"\t{0}\n"a ""red"" flag"\t{1}\nlast\t{2}', ["line one\nline two", 'a "red" flag', "last"]),
        ('"a\tb"\t{0}\n"1\n2\n\t3"\t{1}\n', ["a\tb", "1\n2\n\t3"]),
        ('"he said ""hi""\nand left"\t{0}\n', ['he said "hi"\nand left']),
        (
            '"the \\"red\\" one\nis here"\t{0}\nline one\\\nline two\t{1}\n',
            ['the "red" one\nis here', "line one\nline two"],
        ),
        ('"the best\t{0}\nsecond\t{1}\n', ['"the best', "second"]),
        ('"the best\t{0}\n5 inches"\t{1}\nlast\t{2}', ["malformed", "malformed", "last"]),
        ('"line one\n"line two\t{0}\nlast\t{1}', ["malformed", "malformed", "last"]),
        ("line one\nline two\t{0}\nlast\t{1}", ["malformed", "malformed", "last"]),
        ('"A" is for apple\t{0}\nthe letter "B"\t{1}\n', ['"A" is for apple', 'the letter "B"']),
        ('"never closed\nand more\t{0}\nlast\t{1}', ["malformed", "malformed", "last"]),
    ],
)
def test_quoted_line_breaks_in_tsv_stay_in_their_caption(tmp_path, content, rows):
    filled = content.format("http://x/1", "http://x/2", "http://x/3")
    assert read(write(tmp_path, "c.tsv", f"caption\turl\n{filled}")) == rows


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('u\t"line one\nline two"\nv\tgood\n', ["line one\nline two", "good"]),
        ('u\t"line one\nline two\nv\tgood\n', ["malformed", "malformed", "good"]),
        ("u\tline one\n\nline two\nv\tgood\n", ["malformed", "malformed", "good"]),
        ("u\tgood\nv\tC:\\\nw\tx\n", ["good", "C:\\", "x"]),
    ],
)
def test_a_caption_in_the_last_column_of_tsv_is_whole_or_malformed(tmp_path, content, rows):
    assert read(write(tmp_path, "c.tsv", f"url\tcaption\n{content}")) == rows


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (
            '1,"a \\"red\\" flag, waving"\n2,"one \\"x\n y\\" z"\n3,plain',
            ['a "red" flag, waving', 'one "x\n y" z', "plain"],
        ),
        ("1,a red\\, blue flag\n2,line one\\\nline two\n3,last", ["a red, blue flag", "line one\nline two", "last"]),
        ('1,"he said \\"hi\\""\n2,"so \\"ho\\""\n', ['he said "hi"', 'so "ho"']),
        ('1,"C:\\"\n2,C:\\\n3,a\\nb\n4,"x\\n \\"y\\" z"\n', ["C:\\", "C:\\", "a\\nb", 'x\\n "y" z']),
        ("1,line one\nline two\n2,last\n", ["malformed", "malformed", "last"]),
        ('1,good\n2,"half a cap', ["good", "malformed"]),
    ],
)
def test_backslashes_escape_in_csv_where_doubled_quotes_make_no_row(tmp_path, content, rows):
    assert read(write(tmp_path, "c.csv", f"n,caption\n{content}")) == rows


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("http://x/1;a dog, and a cat\nhttp://x/2;a bird, and a fish\n", ["a dog, and a cat", "a bird, and a fish"]),
        ("image;caption\n1,5.jpg;a dog, a cat, a bird\n", ["a dog, a cat, a bird"]),
        ("sep=;\nimage;caption\n1.jpg;a dog, big\n", ["a dog, big"]),
        ("1.jpg,a dog\n2.jpg,a cat\n", ["a dog", "a cat"]),
        ("n,m,caption;url\n1,2,a dog;u\n", ["a dog;u"]),
    ],
)
def test_the_delimiter_is_the_one_that_cuts_all_rows_alike(tmp_path, content, rows):
    wanted = Columns(text="caption;url") if "caption;url" in content else Columns()
    assert read(write(tmp_path, "c.csv", content), wanted) == rows


def test_reading_goes_on_at_any_row_of_a_table_with_line_breaks(tmp_path):
    captions = [f'"caption {n}\nof ""two"" lines"\t{n}' if n % 3 else f'"open {n}\t{n}' for n in range(40)]
    [source] = find_sources([write(tmp_path, "c.tsv", "\n".join(["caption\tn", *captions]))])
    whole = [row for batch in read_source(source) for row in batch.to_pylist()]
    for start in (1, 7, 39, 40):
        assert [row for batch in read_source(source, start=start) for row in batch.to_pylist()] == whole[start:]
    assert [row["text"] for row in whole[:3]] == ['"open 0', 'caption 1\nof "two" lines', 'caption 2\nof "two" lines']
