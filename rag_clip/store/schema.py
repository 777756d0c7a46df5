"""What a collection is made of: the description in index/captions.toml, checked key by key."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VectorSchema(_Part):
    """How the caption embeddings are kept; `on_disk` leaves them to the page cache instead of memory."""

    distance: Literal["cosine", "dot"] = "cosine"
    datatype: Literal["float32", "float16"] = "float32"
    on_disk: bool = False


class HnswSchema(_Part):
    """The graph: `m` edges per point, beams `ef_construct` and `ef`, and the size it starts at, in kB of float32."""

    m: int = Field(default=16, ge=2)
    ef_construct: int = Field(default=128, ge=4)
    ef: int = Field(default=256, ge=1)
    full_scan_threshold: int = Field(default=100_000, ge=10)


class QuantizationSchema(_Part):
    """Compressed copies of the vectors that the graph walks over; the final scores use the originals."""

    kind: Literal["none", "int8"] = "int8"


class TextIndex(_Part):
    """A full-text index, ranked by BM25."""

    kind: Literal["text"]
    tokenizer: Literal["word", "whitespace", "multilingual", "prefix"] = "word"
    lowercase: bool = True


class KeywordIndex(_Part):
    """An index of whole values, for `where` filters."""

    kind: Literal["keyword"]


class CollectionSchema(_Part):
    """A collection: its name, vectors, graph, quantisation, payload indexes and number of shards."""

    schema_version: int = SCHEMA_VERSION
    name: str = Field(default="captions", pattern=r"^[A-Za-z0-9_.-]+$")
    shards: int = Field(default=1, ge=1)
    vector: VectorSchema = VectorSchema()
    hnsw: HnswSchema = HnswSchema()
    quantization: QuantizationSchema = QuantizationSchema()
    payload: dict[str, Annotated[TextIndex | KeywordIndex, Field(discriminator="kind")]]

    @property
    def filterable(self) -> tuple[str, ...]:
        """Payload fields that `where` may name."""
        return tuple(name for name, index in self.payload.items() if index.kind == "keyword")


def load_schema(path: str | Path | None = None) -> CollectionSchema:
    """Read a collection description; without a path the one shipped as index/captions.toml.

    Raises ValueError naming every unknown key, missing key and wrong value.
    """
    source = Path(path) if path is not None else files("rag_clip.index").joinpath("captions.toml")
    try:
        schema = CollectionSchema.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source} is not TOML: {error}") from None
    except ValidationError as error:
        raise ValueError(f"{source}: {_explain(error)}") from None
    if "text" not in schema.payload or schema.payload["text"].kind != "text":
        raise ValueError(f"{source}: payload.text must be a text index; lexical search ranks by it")
    if schema.schema_version != SCHEMA_VERSION:
        raise ValueError(f"{source}: schema_version is {schema.schema_version}; this release reads {SCHEMA_VERSION}")
    return schema


def _explain(error: ValidationError) -> str:
    reasons = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        unknown = problem["type"] == "extra_forbidden"
        reasons.append(f"unknown key {key}" if unknown else f"{key}: {problem['msg']} (found {problem['input']!r})")
    return "; ".join(reasons)
