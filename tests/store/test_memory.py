from __future__ import annotations

import pytest

from rag_clip.store import load_schema
from rag_clip.store.memory import plan_memory
from rag_clip.store.schema import QuantizationSchema, VectorSchema

MILLION = 10**6


def plan(count: int = MILLION, kind: str = "int8", **vector: object) -> dict[str, int]:
    changes = {"quantization": QuantizationSchema(kind=kind), "vectors": (VectorSchema(**vector),)}
    return plan_memory(load_schema().model_copy(update=changes), 512, count)


@pytest.mark.parametrize(
    ("kind", "vector", "vectors", "quantized", "resident_without_graph"),
    [
        ("none", {}, 2048, 0, 2048),
        ("none", {"datatype": "float16"}, 1024, 0, 1024),
        ("none", {"on_disk": True}, 2048, 0, 0),
        ("int8", {}, 2048, 520, 520),
        ("turbo4", {}, 2048, 264, 264),
    ],
)
def test_a_million_rows_take_a_million_times_the_bytes_of_one(kind, vector, vectors, quantized, resident_without_graph):
    found = plan(kind=kind, **vector)
    assert (found["vectors"], found["quantized"]) == (vectors * MILLION, quantized * MILLION)
    assert found["resident"] - found["graph"] == resident_without_graph * MILLION
    assert found["graph"] == int(MILLION * 4 * (32 + 16 / 15))


def test_a_small_collection_has_no_graph_and_no_copies():
    assert plan(1000) == {"vectors": 2_048_000, "quantized": 0, "graph": 0, "resident": 2_048_000}


def test_every_named_vector_counts():
    both = load_schema().model_copy(update={"vectors": (VectorSchema(), VectorSchema(name="image"))})
    found = plan_memory(both, 512, MILLION)
    assert {name: size / plan()[name] for name, size in found.items()} == pytest.approx(dict.fromkeys(found, 2))
