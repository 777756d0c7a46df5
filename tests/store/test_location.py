"""Where an index is, before it is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_clip.store import Location, open_store


@pytest.mark.parametrize(
    ("text", "is_server", "collection"),
    [
        ("captions-index", False, ""),
        ("/data/http/index", False, ""),
        ("http://localhost:6333", True, ""),
        ("http://localhost:6333/", True, ""),
        ("https://qdrant.example/photos", True, "photos"),
    ],
)
def test_an_address_is_told_from_a_folder(text: str, is_server: bool, collection: str) -> None:
    location = Location(text)
    location.check()
    assert (location.is_server, location.collection) == (is_server, collection)


def test_a_folder_has_a_neighbour_and_one_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    assert Location("index").beside(".shards") == Path("index.shards")
    assert Location("index").absolute == Location("other/../index").absolute == str(tmp_path.resolve() / "index")
    assert Location("http://h/c").absolute == "http://h/c"
    with pytest.raises(ValueError, match="index at http://h/c is on a server; there is no folder beside it"):
        Location("http://h/c").beside(".shards")


@pytest.mark.parametrize("text", ["", "  ", "localhost:6333", "localhost:6333/photos", "grpc://localhost:6334"])
def test_what_is_neither_a_folder_nor_a_server_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"an index is a folder, or http://HOST:6333\[/COLLECTION\] of a Qdrant server"
    ):
        open_store(text)
