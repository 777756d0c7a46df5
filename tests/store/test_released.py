"""An index of the released schema version 2, written by the code before sparse vectors, opens as it was."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from inputs.number_checks import near
from inputs.stores import CAPTIONS, DIM, ENCODER, IDS, batch
from rag_clip.data import Hit
from rag_clip.store import copy_store, create_store, load_schema, open_store

RELEASED = Path(__file__).with_name("released") / "index_schema_2.tar.xz"


@pytest.fixture
def released(tmp_path) -> Path:
    """The six captions with postings and a note; 4 kB packed, since the engine's files are mostly holes."""
    with tarfile.open(RELEASED) as archive:
        archive.extractall(tmp_path / "released", filter="data")
    return tmp_path / "released"


def test_an_index_of_version_2_is_searched_as_it_was(released):
    card = json.loads((released / "card.json").read_text())
    with open_store(released, encoder=ENCODER) as store:
        [hits] = store.search(texts=["kite"], mode="lexical")
        [dense] = store.search(vectors=np.array([[0, 1, 0, 0]], np.float32), limit=1)
        assert store.postings() is not None
        assert store.card.to_dict() == card
    # The scores that the release gave, with the mean length of these captions.
    assert [(hit.id, hit.score) for hit in hits] == [
        (IDS[3], pytest.approx(1.2775322198867798)),
        (IDS[0], pytest.approx(0.8896410465240479)),
    ]
    assert dense == [Hit(IDS[2], "a blue flag", near(1.0), "web")]


def test_captions_are_added_to_an_index_of_version_2_which_stays_one(released):
    with create_store(released, schema=load_schema(), encoder=ENCODER, dim=DIM) as store:
        store.upsert(batch([("web", "a green kite", [0.0, 0.0, 1.0, 0.0])]))
        store.note("funnel", {"kept": 7})
        assert store.card.schema.schema_version == 2
        assert len(store.search(texts=["kite"], mode="lexical")[0]) == 3
    assert "lexical" not in json.loads((released / "card.json").read_text())["schema"]


def test_a_copy_of_version_2_has_sparse_vectors_and_the_same_rows(released, tmp_path):
    with open_store(released) as store:
        report = copy_store(store, tmp_path / "copy")
        vectors = store.vectors(IDS)
    with open_store(tmp_path / "copy") as copied:
        assert (report.count, copied.card.schema) == (len(CAPTIONS), load_schema())
        assert copied.card.schema_version == 3
        [hits] = copied.search(texts=["kite"], mode="lexical")
        assert [hit.id for hit in hits] == [IDS[3], IDS[0]]
        assert copied.search(texts=["kite"], mode="lexical", holding=[["kite"]]) == [hits]
        assert all(np.array_equal(copied.vectors(IDS)[name], vector) for name, vector in vectors.items())
