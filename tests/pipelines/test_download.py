"""Downloading with the real img2dataset from a server on loopback."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inputs.pictures import encoded, picture
from inputs.web_server import Server, serving
from rag_clip.images.tars import open_tar
from rag_clip.pipelines.download import DownloadSummary, Fetching, download_images
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

INSTALLED = importlib.util.find_spec("img2dataset") is not None
needs_img2dataset = pytest.mark.skipif(not INSTALLED, reason="needs the extra download")
BAD = ("/absent", "/loop", "/huge", "/text", "/opted-out", "/short", "/slow", "/to-file", "/late")


@dataclass(frozen=True)
class Runs:
    """Three runs into one folder: the first, the same again, and one that retries, after /late has come."""

    output: Path
    server: Server
    first: DownloadSummary
    again: DownloadSummary
    retried: DownloadSummary
    asked_again: dict[str, int]
    asked_in_retry: dict[str, int]


def noise_image() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (900, 700, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("download")
    output = folder / "web"
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        patch.setenv("no_proxy", "*")
        server.images |= {"/red": picture("red", kind="JPEG"), "/large": noise_image()}
        urls = [server.url(path) for path in ("/red", "/moved", "/large", *BAD)] + [
            "http://[broken",
            "file:///etc/passwd",
        ]
        captions = [f"caption of {url.rpartition('/')[2]}" for url in urls]
        pl.DataFrame({"URL": urls, "TEXT": captions}).write_csv(folder / "list.csv")

        fetching = Fetching(timeout=4, processes=1, threads=8, allow_private=True)

        def run(**settings: Any) -> DownloadSummary:
            return download_images(
                [folder / "list.csv"], output=output, caption_column="text", fetching=fetching, **settings
            )

        first = run()
        asked = server.asked.copy()
        again = run()
        asked_again = dict(server.asked - asked)
        server.images["/late"] = picture("blue", kind="JPEG")
        retried = run(retry_failed=True)
        yield Runs(output, server, first, again, retried, asked_again, dict(server.asked - asked))


@needs_img2dataset
def test_every_failure_is_counted_under_its_error(runs: Runs):
    assert (runs.first.urls, runs.first.downloaded, runs.first.failed, runs.first.tried) == (14, 3, 11, 14)
    errors = {error.partition("\n")[0]: count for error, count in runs.first.errors.items()}
    assert errors == {
        "HTTP Error 404: Not Found": 2,
        "HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.": 1,
        "HTTP Error 302: Found - Redirection to url 'file:///etc/passwd' is not allowed": 1,
        "the answer has more than 33,554,432 bytes; it is not read": 1,
        "Image decoding error": 1,
        "Use of image disallowed by X-Robots-Tag directive": 1,
        f"IncompleteRead({len(picture('red')) - 10} bytes read, 10 more expected)": 1,
        "timed out": 1,
        "Invalid IPv6 URL": 1,
        "<urlopen error unknown url type: file>": 1,
    }


@needs_img2dataset
def test_the_same_list_again_asks_for_nothing(runs: Runs):
    assert runs.asked_again == {}
    assert (runs.again.tried, runs.again.errors) == (0, runs.first.errors)


@needs_img2dataset
def test_a_retry_asks_for_the_failed_ones_only_and_never_for_those_that_opted_out(runs: Runs):
    assert set(runs.asked_in_retry) == set(BAD) - {"/opted-out"}
    assert (runs.retried.urls, runs.retried.downloaded, runs.retried.failed, runs.retried.tried) == (14, 4, 10, 10)
    assert runs.retried.errors["HTTP Error 404: Not Found"] == 1
    assert runs.retried.errors["Use of image disallowed by X-Robots-Tag directive"] == 1


@needs_img2dataset
def test_small_images_are_kept_as_they_came_and_large_ones_made_smaller(runs: Runs):
    tar = open_tar(runs.output / "round-000" / "00000.tar", source="web")
    pairs = {pair.caption: pair for [pair] in tar.read([1] * tar.rows, start=0)}
    assert pairs["caption of red"].image == pairs["caption of moved"].image == runs.server.images["/red"]
    large = pairs["caption of large"].image
    assert isinstance(large, bytes)
    with Image.open(io.BytesIO(large)) as image:
        assert (image.format, image.size) == ("JPEG", (512, 658))


@needs_img2dataset
def test_what_was_downloaded_becomes_an_index(runs: Runs, tmp_path: Path):
    summary = index_images([runs.output], index=tmp_path / "index", encoder=ToyEncoder(), running=Running(0))
    assert (summary.rows, summary.failed, summary.count) == (4, 0, 4)
    [shard, later] = sorted((tmp_path / "index.shards").rglob("0*.parquet"), key=lambda path: -len(pq.read_table(path)))
    assert set(pq.read_table(shard)["source"].to_pylist()) == {"web"}
    assert pq.read_table(later)["url"].to_pylist() == [runs.server.url("/late")]


@needs_img2dataset
def test_private_addresses_are_refused_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        (tmp_path / "list.txt").write_text(server.url("/red") + "\n")
        summary = download_images(
            [tmp_path / "list.txt"], output=tmp_path / "out", caption_column=None, fetching=Fetching(processes=1)
        )
        assert server.asked == {}
    assert summary.errors == {"127.0.0.1 is a private address; it is refused": 1}
