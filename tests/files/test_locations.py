"""Places as they may be printed and recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_clip.files.locations import shown, without_secrets


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("https://ann:pass@host:8080/a/b.csv", "https://host:8080/a/b.csv"),
        ("s3://KEY:sec/ret+@bucket/a.parquet", "s3://bucket/a.parquet"),
        ("https://host/a.csv?token=t0ken&x=1", "https://host/a.csv?hidden=d68b0920"),
        ("zip://in.csv::https://ann:pass@host/a.zip", "zip://in.csv::https://host/a.zip"),
        ("memory:///corpus/a.parquet", "memory:///corpus/a.parquet"),
        ("hf://datasets/o/n@main/a.parquet", "hf://datasets/o/n@main/a.parquet"),
        ("github://org:repo@main/a.csv", "github://org:repo@main/a.csv"),
        ("https://host:80/@ann/a.csv", "https://host:80/@ann/a.csv"),
        ("http://[::1]:80/a.csv", "http://[::1]:80/a.csv"),
        ("plain/folder/a?b.csv", "plain/folder/a?b.csv"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(place: str, expected: str) -> None:
    assert shown(place) == expected


def test_paths_stay_and_addresses_in_messages_are_shown() -> None:
    assert shown(Path("a/b")) == "a/b"
    message = "404, message='Not Found', url='https://ann:pass@host/a?sig=abc' and s3://b/c"
    assert without_secrets(message) == "404, message='Not Found', url='https://host/a?hidden=d4bb1c2b' and s3://b/c"


def test_addresses_that_differ_in_what_is_hidden_stay_apart() -> None:
    assert len({shown(f"https://host/get.csv?file={file}") for file in "abcabc"}) == 3
