"""The images of a webdataset tar as rows, with the texts of each sample: KEY.cls, KEY.txt, and values of KEY.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Any

import pyarrow as pa

from rag_clip.captions.sources.files import open_file
from rag_clip.files.identity import FileIdentity
from rag_clip.files.locations import Place
from rag_clip.images.listing import mapped_table
from rag_clip.images.rows import ImageFile
from rag_clip.images.tars import Sample, open_tar, read_facts, read_slice, read_text

TEXTS = ("cls", "txt")
SNIFFED = 100
ROWS_GATHERED = 1024
IMAGE = pa.struct([("bytes", pa.binary()), ("problem", pa.string())])
PLACE = {"image offset": pa.int64(), "image size": pa.int64(), "image problem": pa.string()}


def open_tar_images(place: Place, identity: FileIdentity) -> ImageFile:
    """Open the images of a tar with the columns `key`, `cls` and `txt`, if samples have them, and those of its JSON.

    JSON values become texts or lists of texts; values other than numbers, texts and lists of these are left out. The
    images themselves are not copied to outputs. A sample that cannot be read becomes an image with an error. Raises
    ValueError if the file is not a tar.
    """
    samples = open_tar(place, source="", identity=identity).samples
    with open_file(str(place)) as file:
        schema = _columns(file, samples)
        table = mapped_table(pa.schema([*schema, *PLACE.items()]), _batches(file, samples, schema))
    largest = max((sample.image[1] for sample in samples if sample.image), default=0)
    image = next(name for name in ("image", "image bytes") if name not in schema.names)
    return ImageFile(place, schema, len(table), largest, image, place, identity, partial(_read, table))


def _read(table: pa.Table, file: ImageFile, start: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with open_file(str(file.path)) as stream:
        for batch in table.slice(start).to_batches(max_chunksize=file.read_rows):
            if file.image in columns:
                batch = batch.append_column(file.image, _images(stream, batch))
            yield batch.select(columns)


def _columns(file: IO[bytes], samples: Sequence[Sample]) -> pa.Schema:
    kinds = {"key": pa.string()}
    for name in TEXTS:
        if any(name in sample.parts for sample in samples):
            kinds[name] = pa.string()
    for sample in samples[:SNIFFED]:
        for name, value in _facts(file, sample)[0].items():
            if name not in kinds and (kind := _kind(value)):
                kinds[name] = kind
    return pa.schema(list(kinds.items()))


def _batches(file: IO[bytes], samples: Sequence[Sample], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    whole = pa.schema([*schema, *PLACE.items()])
    for start in range(0, len(samples), ROWS_GATHERED):
        rows = [_row(file, sample, schema) for sample in samples[start : start + ROWS_GATHERED]]
        yield from pa.Table.from_pylist(rows, schema=whole).to_batches()


def _row(file: IO[bytes], sample: Sample, schema: pa.Schema) -> dict[str, Any]:
    facts, problem = _facts(file, sample)
    row = {name: _value(facts.get(name), schema.field(name).type) for name in schema.names}
    try:
        row |= {name: read_text(file, sample.parts[name]).strip() for name in TEXTS if name in sample.parts}
    except ValueError as error:
        problem = problem or f"the texts of the sample cannot be read ({error})"
    if sample.image is None:
        problem = problem or f"the sample has no image ({', '.join(sample.parts) or 'nothing'} only)"
    offset, size = sample.image or (0, 0)
    return {**row, "key": sample.key, **dict(zip(PLACE, (offset, size, problem), strict=True))}


def _facts(file: IO[bytes], sample: Sample) -> tuple[Mapping[str, Any], str | None]:
    """Return the values of a sample's JSON, and the sample's problem or None."""
    if sample.problem:
        return {}, sample.problem
    try:
        return read_facts(file, sample), None
    except (ValueError, RecursionError) as error:
        return {}, f"the JSON of the sample cannot be read ({error})"


def _kind(value: object) -> pa.DataType | None:
    if isinstance(value, list):
        return pa.list_(pa.string()) if all(isinstance(each, str | int) for each in value) else None
    return pa.string() if isinstance(value, str | int | float) else None


def _value(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return None if value is None else [str(each) for each in (value if isinstance(value, list) else [value])]
    return None if value is None or isinstance(value, list | dict) else _text(str(value))


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()  # JSON may contain half a surrogate pair


def _images(file: IO[bytes], batch: pa.RecordBatch) -> pa.Array:
    places = zip(*(batch.column(name).to_pylist() for name in PLACE), strict=True)
    rows = [
        {"bytes": None if problem else read_slice(file, (offset, size)), "problem": problem}
        for offset, size, problem in places
    ]
    return pa.array(rows, IMAGE)
