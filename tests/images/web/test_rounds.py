"""The rounds of a download, from the files that img2dataset leaves."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from rag_clip.files.lock import BusyError, locked
from rag_clip.images.web.rounds import (
    NO_STATUS,
    OPTED_OUT,
    Round,
    begin_round,
    failed_addresses,
    latest_statuses,
    list_rounds,
)
from rag_clip.pipelines.download import DownloadError, download_images


def addresses(*urls: str) -> pl.DataFrame:
    return pl.DataFrame({"url": urls, "caption": [None] * len(urls)}, schema={"url": pl.String, "caption": pl.String})


def finish(turn: Round, shard: int, errors: dict[str, str | None], *, count: int | None = None) -> None:
    """Write what img2dataset writes at the end of a shard."""
    table = addresses(*errors).with_columns(
        status=pl.Series(["success" if error is None else "failed_to_download" for error in errors.values()]),
        error_message=pl.Series(list(errors.values()), dtype=pl.String),
    )
    table.write_parquet(turn.folder / f"{shard:05d}.parquet")
    facts = {"count": len(errors) if count is None else count}
    (turn.folder / f"{shard:05d}_stats.json").write_text(json.dumps(facts))


def last(output: Path) -> dict[str, str | None]:
    statuses = latest_statuses(list_rounds(output))
    return dict(statuses.select("url", "error_message").iter_rows())


def test_the_last_round_counts(tmp_path: Path):
    finish(begin_round(tmp_path, addresses("a", "b", "c")), 0, {"a": None, "b": "timed out", "c": OPTED_OUT})
    assert failed_addresses(list_rounds(tmp_path))["url"].to_list() == ["b"]
    finish(begin_round(tmp_path, addresses("b")), 0, {"b": None})
    assert last(tmp_path) == {"a": None, "c": OPTED_OUT, "b": None}
    assert failed_addresses(list_rounds(tmp_path))["url"].to_list() == []


def test_an_unfinished_shard_has_no_statuses_yet(tmp_path: Path):
    turn = begin_round(tmp_path, addresses("a", "b", "c"), shard_rows=2)
    finish(turn, 0, {"a": None, "b": None})
    (turn.folder / "00001.parquet").write_bytes(b"half written")
    assert (turn.rows, turn.shards, len(turn.done()), last(tmp_path)) == (3, 2, 1, {"a": None, "b": None})


def test_addresses_that_img2dataset_lost_are_failures(tmp_path: Path):
    finish(begin_round(tmp_path, addresses("a", "b")), 0, {"a": None}, count=2)
    assert last(tmp_path) == {"a": None, "b": NO_STATUS}
    assert failed_addresses(list_rounds(tmp_path))["url"].to_list() == ["b"]


def test_two_downloads_into_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    (tmp_path / "list.txt").write_text("http://127.0.0.1/a")
    with (
        locked(tmp_path / "out" / "download.lock", doing="test"),
        pytest.raises(BusyError, match=r"cannot download into .*out: process \d+ is at it"),
    ):
        download_images([tmp_path / "list.txt"], output=tmp_path / "out", caption_column=None)


def test_a_missing_extra_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DownloadError, match=r"img2dataset is not installed; install it with: pip install 'rag-clip"):
        download_images([tmp_path / "list.txt"], output=tmp_path / "out")
