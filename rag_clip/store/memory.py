"""How much memory and disk an index needs, from its schema and the number of rows."""

from __future__ import annotations

from rag_clip.store.schema import CollectionSchema

LINK_BYTES = 4
CODE_BYTES = {"int8": 1.0, "turbo4": 0.5}
CODE_EXTRA = 8


def plan_memory(schema: CollectionSchema, dim: int, count: int) -> dict[str, int]:
    """Return bytes of `vectors`, `quantized` copies and `graph` links, and `resident`: what a fast search touches.

    The graph has up to 2 m links of four bytes a row on its ground level and m on each higher one, which holds one
    row in m: an upper bound, for the engine packs them. No graph and no copies are made of a collection that is small
    enough to be searched row by row. With copies, or vectors on disk, the originals are read only for the last
    scores, so they are left out of `resident`. Payload and text index come on top; they grow with the texts.
    """
    rows = count * len(schema.vectors)
    widths = {vector.name: 2 if vector.datatype == "float16" else 4 for vector in schema.vectors}
    vectors = count * dim * sum(widths.values())
    if schema.is_small(count, dim):
        return {"vectors": vectors, "quantized": 0, "graph": 0, "resident": vectors}
    code = CODE_BYTES.get(schema.quantization.kind)
    quantized = 0 if code is None else int(rows * (dim * code + CODE_EXTRA))
    m = schema.hnsw.m
    graph = int(rows * LINK_BYTES * (2 * m + m / (m - 1)))
    on_disk = count * dim * sum(widths[vector.name] for vector in schema.vectors if vector.on_disk)
    return {
        "vectors": vectors,
        "quantized": quantized,
        "graph": graph,
        "resident": graph + (quantized or vectors - on_disk),
    }
