"""Vectors and payload of captions by id, on the embedded engine, the in-memory client and a server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from inputs.stores import CAPTIONS, DIM, ENGINES, IDS, PAIRED, PAYLOAD, batch, opened, paired_batch
from rag_clip.store import Store, load_schema
from rag_clip.store.schema import VectorSchema

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(params=ENGINES, scope="module")
def paired(request, tmp_path_factory) -> Iterator[Store]:
    with opened(request.param, tmp_path_factory.mktemp("store"), PAIRED) as store:
        store.upsert(paired_batch())
        yield store


def test_the_vectors_of_captions_come_back_by_id(paired):
    expected = {name: vector for name, (_source, _text, vector) in zip(IDS, CAPTIONS, strict=True)}
    found = paired.vectors([IDS[3], UNKNOWN, IDS[0]])
    assert found.keys() == {IDS[0], IDS[3]}
    for name, vector in found.items():
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, expected[name], atol=1e-6)
    [of_image] = paired.vectors([IDS[0]], vector="image").values()
    np.testing.assert_allclose(of_image, CAPTIONS[1][2], atol=1e-6)


def test_no_id_has_no_vector_and_no_payload(paired):
    assert (paired.vectors([]), paired.vectors([UNKNOWN])) == ({}, {})
    assert (paired.payload([]), paired.payload([UNKNOWN])) == ({}, {})


def test_a_vector_that_the_index_lacks_is_refused(paired):
    with pytest.raises(ValueError, match="no vector 'sound'; name one of image, text"):
        paired.vectors(IDS, vector="sound")


def test_payload_comes_back_by_id_without_nulls(paired):
    assert paired.payload([IDS[1], IDS[4]]) == {
        IDS[1]: {"licence": "by", "width": 320, "noise": 0.25},
        IDS[4]: {},
    }
    whole = {
        name: {field: values[row] for field, values in PAYLOAD.items() if values[row] is not None}
        for row, name in enumerate(IDS)
    }
    assert paired.payload(IDS) == whole


@pytest.mark.parametrize("distance", ["cosine", "dot"])
def test_vectors_are_unit_rows_whatever_the_index_stores(tmp_path, distance):
    long = [(source, text, [3 * value for value in vector]) for source, text, vector in CAPTIONS]
    vectors = (VectorSchema(distance=distance, datatype="float16"),)
    with opened("edge", tmp_path, load_schema().model_copy(update={"vectors": vectors})) as store:
        store.upsert(batch(long))
        found = store.vectors(IDS)
    matrix = np.stack([found[name] for name in IDS])
    assert matrix.shape == (6, DIM)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix, [vector for *_, vector in CAPTIONS], atol=1e-3)
