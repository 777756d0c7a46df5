"""Lists of image addresses: which files are read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from rag_clip.images.web.url_lists import read_url_lists

PAIRS = {"url": ["http://a", "http://b"], "caption": ["one", None]}


def read(*paths: Path, url_column: str = "url", caption_column: str | None = "caption") -> dict[str, list[str | None]]:
    return read_url_lists(paths, url_column=url_column, caption_column=caption_column).to_dict(as_series=False)


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv"])
def test_tables_of_every_kind_give_the_same_pairs(tmp_path: Path, ending: str):
    path, table = tmp_path / f"list.{ending}", pl.DataFrame({**PAIRS, "id": [1, 2]})
    if ending == "parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, separator="," if ending == "csv" else "\t")
    assert read(path) == PAIRS


def test_a_text_file_has_addresses_without_captions(tmp_path: Path):
    (tmp_path / "list.txt").write_text("http://a\n\n  http://b \r\n")
    assert read(tmp_path / "list.txt") == {"url": ["http://a", "http://b"], "caption": [None, None]}


def test_pairs_come_once_and_rows_without_an_address_not_at_all(tmp_path: Path):
    pl.DataFrame({"url": ["http://a", None, " ", "http://a"], "caption": ["x", "y", "z", "x"]}).write_csv(
        tmp_path / "1.csv"
    )
    pl.DataFrame({"URL": ["http://a", "http://a"], "Caption": ["x", "other"]}).write_csv(tmp_path / "2.csv")
    assert read(tmp_path / "1.csv", tmp_path / "2.csv") == {"url": ["http://a"] * 2, "caption": ["x", "other"]}


def test_files_that_do_not_fit_are_named_with_what_they_have(tmp_path: Path):
    pl.DataFrame({"link": ["http://a"], "n": [1]}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    (tmp_path / "c.doc").write_text("http://a")
    (tmp_path / "d.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"a.parquet has no column 'url'; its columns are link, n. Name the right one"):
        read(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"column 'n' of .*a.parquet is Int64, not strings"):
        read(tmp_path / "a.parquet", url_column="link", caption_column="n")
    with pytest.raises(ValueError, match=r"b.parquet cannot be read as .parquet \(.*\)"):
        read(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"c.doc is none of .parquet, .csv, .tsv or .txt"):
        read(tmp_path / "c.doc")
    with pytest.raises(ValueError, match=r"d.txt hold no address; column 'url' is empty"):
        read(tmp_path / "d.txt")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent.csv"):
        read(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match="no lists were given"):
        read()
