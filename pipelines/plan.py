"""What an index will take, before it is built: disk, memory, hours and machines, from the rates in index/rates.toml.

Nothing is loaded but the configuration of the model. A plan says what was measured, and what is extrapolated from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_clip.files.reading import read_toml
from rag_clip.store import load_schema
from rag_clip.store.schema import CollectionSchema, plan_memory
from rag_clip.store.store import MOST_POSTINGS

from .images import load_image_schema

if TYPE_CHECKING:
    from rag_clip.models.work import Work

GB = 10**9
SHARE = 0.75  # of a machine's memory that an index may take


@dataclass(frozen=True, slots=True)
class Machines:
    """The machines to plan for.

    memory: of each, in GB; an index may take three quarters of it.
    hours: in which all captions and images are to be encoded.
    caption_rate, image_rate: captions and images that one device encodes a second, as measured on it; by default
        extrapolated from one thread of a CPU.

    Raises ValueError for a number that is not above 0.
    """

    memory: float = 64.0
    hours: float = 24.0
    caption_rate: float | None = None
    image_rate: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("memory", "hours", "caption_rate", "image_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; give a number above 0")


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What an index of `rows` captions, or of images with a caption each, takes.

    model, dim: the model and the width of its vectors.
    rows, images: rows of the index, and whether they are images with captions.
    disk: bytes of the shards, of the index (vectors, copies, graph, texts) and of the postings of an index in a folder.
    memory: bytes for fast search: of the copies and the graph, and of the words; and the most that our process takes
        while the index is built.
    hours: of encoding on one device; of writing, and of building the graph, by one engine.
    devices: devices that encode everything within the hours of the machines.
    folder_fits: whether an index in a folder can be searched fast on one machine.
    nodes: nodes of a Qdrant cluster that hold the index, with its copies, in memory.
    measured, extrapolated: where the numbers come from.
    """

    model: str
    dim: int
    rows: int
    images: bool
    disk: Mapping[str, int]
    memory: Mapping[str, int]
    hours: Mapping[str, float]
    devices: int
    folder_fits: bool
    nodes: int
    measured: tuple[str, ...]
    extrapolated: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        """Say it in one line."""
        kind = "images with captions" if self.images else "captions"
        return (
            f"{self.rows:,} {kind}, {self.dim} wide: {sum(self.disk.values()) / GB:,.1f} GB of disk, "
            f"{self.search_memory / GB:,.1f} GB of memory for search, "
            f"{self.hours['encode']:,.1f} device hours to encode"
        )

    __repr__ = __str__

    @property
    def search_memory(self) -> int:
        """Bytes of memory for fast search."""
        return self.memory["vectors and graph"] + self.memory["words"]


def plan_index(
    rows: int,
    *,
    model: str,
    images: bool = False,
    schema: CollectionSchema | None = None,
    machines: Machines = Machines(),
    dim: int | None = None,
) -> IndexPlan:
    """Return what an index of `rows` captions will take, or of images with a caption each.

    model: an encoder by name, of which only the configuration is read.
    schema: by default that of captions, or of images.
    machines: to plan for.
    dim: width of the vectors; by default the model's.

    Raises ValueError for fewer than one row, and for a tower whose work its configuration does not say where no rate is
    given; EncoderError for an unknown model.
    """
    from rag_clip.models.work import work_of  # which imports open_clip

    if rows < 1:
        raise ValueError(f"{rows} rows are nothing to plan; give at least 1")
    rates = load_rates()
    work = work_of(model)
    width = dim or work.dim
    schema = schema or (load_image_schema() if images else load_schema())
    parts = plan_memory(schema, width, rows)
    sizes, spent = rates["bytes"], rates["microseconds"]
    vectors, number = len(schema.vectors), 2 if schema.vectors[0].datatype == "float16" else 4
    copies = schema.server.replication_factor
    disk = {
        "shards": rows * (sizes["shard"] + 2 * width * vectors),
        "vectors": parts["vectors"] + parts["quantized"] + parts["graph"],
        "texts": rows * sizes["text"] + sizes["log"],
        "postings": rows * (sizes["posting"] + number * width) if rows <= MOST_POSTINGS else 0,
    }
    memory = {
        "vectors and graph": parts["resident"],
        "words": rates["memory"]["engine"] + rows * rates["memory"]["word"],
        "build": rates["memory"]["process"] + (rates["memory"]["posting"] * rows if disk["postings"] else 0),
    }
    numbers, built = rows * vectors * width, 0 if schema.is_small(rows, width) else 1
    caption_rate, image_rate = _rates(work, machines, rates, images)
    micro = {
        "encode": rows * (spent["clean"] + 1e6 / caption_rate + (1e6 / image_rate if images else 0)),
        "write": rows * spent["load"] + numbers * spent["load_number"],
        "graph": built * (rows * vectors * spent["graph"] + numbers * spent["graph_number"]),
    }
    hours = {name: each / 3.6e9 for name, each in micro.items()}
    room = SHARE * machines.memory * GB
    needed = memory["vectors and graph"] + memory["words"]
    return IndexPlan(
        model=model,
        dim=width,
        rows=rows,
        images=images,
        disk=disk,
        memory=memory,
        hours=hours,
        devices=ceil(hours["encode"] / machines.hours),
        folder_fits=needed <= room,
        nodes=max(copies, ceil(copies * needed / room)),
        measured=tuple(f"{rate['what']}: {rate['command']} ({rate['where']})" for rate in rates["measured"]),
        extrapolated=_extrapolated(rows, images, machines, rates),
    )


def load_rates() -> dict[str, Any]:
    """Read the measured rates that are shipped as index/rates.toml."""
    return read_toml(Path(str(files("rag_clip.index").joinpath("rates.toml"))))


def with_numbers(
    schema: CollectionSchema, *, vectors: str | None = None, copies: str | None = None
) -> CollectionSchema:
    """Return the schema with vectors of another number type (float32, float16), or copies of another kind."""
    if vectors is not None:
        described = tuple(each.model_copy(update={"datatype": vectors}) for each in schema.vectors)
        schema = schema.model_copy(update={"vectors": described})
    if copies is not None:
        schema = schema.model_copy(update={"quantization": schema.quantization.model_copy(update={"kind": copies})})
    return schema


def _rates(work: Work, machines: Machines, rates: Mapping[str, Any], images: bool) -> tuple[float, float]:
    """Return the captions and the images that a device encodes a second: as given, or by the work of the towers."""
    found = []
    for tower, given, one, wanted in (
        ("text", machines.caption_rate, work.token, True),
        ("image", machines.image_rate, work.image, images),
    ):
        if given is None and one is None and wanted:
            kind = "caption" if tower == "text" else "image"
            raise ValueError(
                f"the configuration does not say how large the {tower} tower is; measure how many {kind}s a device "
                f"encodes a second, and give --{kind}-rate"
            )
        measured = rates[tower]
        found.append(given or measured["items"] / measured["seconds"] * measured["work"] / (one or measured["work"]))
    return found[0], found[1]


def _extrapolated(rows: int, images: bool, machines: Machines, rates: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what of a plan was not measured at its size."""
    notes = [f"disk, writing and graph by {rates['measured_rows']:,} captions of about 45 characters, in proportion"]
    of_rates = [("text", machines.caption_rate), *([("image", machines.image_rate)] if images else [])]
    notes += [
        f"the {tower} tower by its multiplications, from {rates[tower]['model']} on one CPU thread; no GPU was measured"
        for tower, given in of_rates
        if given is None
    ]
    if rows > (most := rates["memory"]["rows"]):
        notes.append(f"memory of the words beyond {most:,} captions, each with a word of its own, the worst case")
    notes.append("graphs take longer for each caption the larger a segment is (of up to 250,000 captions)")
    notes.append(
        "a server as an index in a folder, without its postings; its copies and nodes share the vectors evenly"
    )
    if rows > MOST_POSTINGS:
        notes.append(
            f"above {MOST_POSTINGS:,} rows an index in a folder has no postings, and the engine is asked instead"
        )
    return tuple(notes)
