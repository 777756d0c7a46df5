"""The schema of a collection, such as index/captions.toml, checked key by key.

It determines the memory that the index needs (`plan_memory`) and the filters that `where` allows (`check_where`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from math import isnan
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rag_clip.files.reading import read_toml
from rag_clip.files.settings import check_settings

SCHEMA_VERSION = 3
READABLE_VERSIONS = (2, 3)  # 2, of 0.1 and 0.2, has no sparse vectors; the engine ranks its texts
LINK_BYTES = 4  # per edge of the graph
CODE_BYTES = {"int8": 1.0, "turbo4": 0.5}  # per number of a compressed vector
CODE_EXTRA = 8  # bytes per compressed vector besides its numbers

Range = tuple[float | None, float | None]
Filters = Mapping[str, str | Sequence[str] | Range]
Where = Mapping[str, list[str] | Range]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VectorSchema(_Part):
    """A named vector per row; with `on_disk` vectors are read through the page cache instead of kept in memory."""

    name: str = Field(default="text", pattern=r"^[A-Za-z0-9_]+$")
    distance: Literal["cosine", "dot"] = "cosine"
    datatype: Literal["float32", "float16"] = "float32"
    on_disk: bool = False


class HnswSchema(_Part):
    """The HNSW graph: `m` edges per point, beam widths `ef_construct` and `ef`, and the size from which it is built.

    `full_scan_threshold` is in kB of float32 vectors; smaller collections are searched exactly.
    """

    m: int = Field(default=16, ge=2)
    ef_construct: int = Field(default=128, ge=4)
    ef: int = Field(default=256, ge=1)
    full_scan_threshold: int = Field(default=100_000, ge=10)


class QuantizationSchema(_Part):
    """Compressed copies of the vectors for walking the graph; final scores use the originals."""

    kind: Literal["none", "int8", "turbo4"] = "int8"


class TextIndex(_Part):
    """A full-text index, ranked by BM25."""

    kind: Literal["text"]
    tokenizer: Literal["word", "whitespace", "multilingual", "prefix"] = "word"
    lowercase: bool = True


class KeywordIndex(_Part):
    """An index of whole values, for `where` filters by value."""

    kind: Literal["keyword"]


class NumberIndex(_Part):
    """An index of integers or floats, for `where` filters by range."""

    kind: Literal["integer", "float"]


class LexicalSchema(_Part):
    """BM25: saturation `k`, weight `b` of the length, and the number of words of an average caption.

    The average is a constant, not that of the index, so that a caption's vector never changes.
    """

    k: float = Field(default=1.2, ge=0)
    b: float = Field(default=0.75, ge=0, le=1)
    average_length: float = Field(default=10.0, gt=0)


class ServerSchema(_Part):
    """Settings for servers only: shards, copies of each shard, and the copies that a write waits for."""

    shards: int = Field(default=1, ge=1)
    replication_factor: int = Field(default=1, ge=1)
    write_consistency: int = Field(default=1, ge=1)


PayloadIndex = Annotated[TextIndex | KeywordIndex | NumberIndex, Field(discriminator="kind")]


class CollectionSchema(_Part):
    """A collection: its name, vectors, graph, quantisation, payload fields and server settings.

    `default` is the vector to search where a search names none; a single vector is its own default.
    """

    schema_version: int = SCHEMA_VERSION
    name: str = Field(default="captions", pattern=r"^[A-Za-z0-9_.-]+$")
    default: str = ""
    vectors: tuple[VectorSchema, ...] = Field(default=(VectorSchema(),), min_length=1)
    hnsw: HnswSchema = HnswSchema()
    quantization: QuantizationSchema = QuantizationSchema()
    lexical: LexicalSchema = LexicalSchema()
    server: ServerSchema = ServerSchema()
    payload: dict[str, PayloadIndex] = {"text": TextIndex(kind="text"), "source": KeywordIndex(kind="keyword")}

    @model_validator(mode="after")
    def _check(self) -> CollectionSchema:
        names = [vector.name for vector in self.vectors]
        if len(set(names)) < len(names):
            raise ValueError(f"vectors {', '.join(names)} share a name; give each its own")
        if self.default and self.default not in names:
            raise ValueError(f"default is {self.default!r}; the vectors are {', '.join(names)}")
        if "text" not in self.payload or self.payload["text"].kind != "text":
            raise ValueError("payload.text must be a text index; lexical search ranks by it")
        if "bm25" in names:
            raise ValueError("bm25 is the vector that lexical search makes itself; rename yours")
        taken = {"id", "vector", *(f"vector_{name}" for name in names)} & set(self.payload)
        if taken:
            raise ValueError(f"payload field {min(taken)} has the name of a column of its own; rename it")
        if self.server.write_consistency > self.server.replication_factor:
            raise ValueError("server.write_consistency is above server.replication_factor; there are no more copies")
        return self

    @property
    def ranks_sparse(self) -> bool:
        """Whether texts are ranked by sparse vectors, as from version 3 on; before, by the engine's text index."""
        return self.schema_version >= 3

    def upgraded(self) -> CollectionSchema:
        """Return the schema in the version that new indexes have."""
        return self.model_copy(update={"schema_version": SCHEMA_VERSION})

    def plain(self) -> dict[str, Any]:
        """Return the schema as plain values for JSON, with the keys that its version has."""
        return self.model_dump(mode="json", exclude=None if self.ranks_sparse else {"lexical"})

    @property
    def filterable(self) -> tuple[str, ...]:
        """Payload fields that `where` can filter by."""
        return tuple(name for name, index in self.payload.items() if index.kind != "text")

    @property
    def extra(self) -> tuple[str, ...]:
        """Declared payload fields besides text and source; their columns are optional and may hold nulls."""
        return tuple(name for name in self.payload if name not in ("text", "source"))

    @property
    def columns(self) -> dict[str, str]:
        """The column of each named vector in a batch: `vector` for a single vector, else `vector_<name>`."""
        if len(self.vectors) == 1:
            return {self.vectors[0].name: "vector"}
        return {vector.name: f"vector_{vector.name}" for vector in self.vectors}

    @property
    def of_captions(self) -> str:
        """The name of the vector of captions: `text`, or the first if there is none of that name."""
        names = [vector.name for vector in self.vectors]
        return "text" if "text" in names else names[0]

    def is_small(self, count: float, dim: int) -> bool:
        """Return whether `count` rows of width `dim` are searched exactly, without a graph."""
        return count * dim * 4 / 1024 <= self.hnsw.full_scan_threshold

    def pick_vector(self, name: str | None) -> str:
        """Return `name`, or the default vector if it is None; raises ValueError where there is no such vector."""
        names = [vector.name for vector in self.vectors]
        chosen = name or self.default or (names[0] if len(names) == 1 else "")
        if chosen not in names:
            found = f"no vector {chosen!r}" if chosen else "several vectors and no default"
            raise ValueError(f"the index has {found}; name one of {', '.join(names)}")
        return chosen


def load_schema(path: str | Path | None = None) -> CollectionSchema:
    """Read a schema file, by default the bundled index/captions.toml.

    A file of an older version is read as one of the newest. Raises ValueError naming every unknown key, missing key and
    wrong value.
    """
    source = Path(path) if path is not None else Path(str(files("rag_clip.index").joinpath("captions.toml")))
    values = read_toml(source)
    version = values.get("schema_version", SCHEMA_VERSION)
    if version not in READABLE_VERSIONS:
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise ValueError(f"{source}: schema_version is {version}; this release reads {readable}")
    try:
        return check_settings(CollectionSchema, values).upgraded()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def plan_memory(schema: CollectionSchema, dim: int, count: int) -> dict[str, int]:
    """Return the bytes of `vectors`, `quantized` copies and `graph` links, and of `resident` memory for fast search.

    The graph has up to 2 m links of four bytes per row on its lowest level, and m on each higher level, with one row in
    m: an upper bound, since the engine compresses them. Collections small enough for exact search have no graph and no
    copies. With copies, or vectors on disk, the originals are read only for the final scores, so `resident` does not
    include them. Payload and text index are not included; they grow with the texts.
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


def check_where(where: Filters, schema: CollectionSchema) -> Where:
    """Return the conditions in the engines' form; raises ValueError for unknown fields and unsuitable conditions."""
    unknown = [field for field in where if field not in schema.filterable]
    if unknown:
        raise ValueError(
            f"cannot filter by {', '.join(unknown)}; the indexed fields are {', '.join(sorted(schema.filterable))}"
        )
    return {field: _condition(field, value, schema.payload[field].kind) for field, value in where.items()}


def _condition(field: str, value: str | Sequence[str] | Range, kind: str) -> list[str] | Range:
    if kind == "keyword":
        values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        if not all(isinstance(item, str) for item in values):
            raise ValueError(f"{field} is a keyword; filter by a text or several, not {value!r}")
        return values  # type: ignore[return-value]
    if not isinstance(value, Sequence) or len(value) != 2 or not all(_is_bound(bound) for bound in value):
        raise ValueError(f"{field} is a number; filter by (least, greatest), either None for no bound, not {value!r}")
    least, greatest = value
    if least is not None and greatest is not None and least > greatest:  # type: ignore[operator]
        raise ValueError(f"{field} is to be at least {least} and at most {greatest}, which no number is; swap them")
    return least, greatest  # type: ignore[return-value]


def _is_bound(value: object) -> bool:
    """Return whether a value is a number or None; NaN and bool do not count."""
    return value is None or (isinstance(value, Real) and not isinstance(value, bool) and not isnan(value))
