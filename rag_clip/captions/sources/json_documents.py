"""Read captions from one JSON document incrementally: an array of records, COCO's annotations, captions by key.

Memory holds one element of an array at a time, and the addresses and sizes of COCO's images.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from rag_clip.captions.sources.columns import RECOGNISED
from rag_clip.captions.sources.formats import MALFORMED, Row, parse_json, read_lines, without_mark

CHUNK = 1 << 16
MOST_CHARACTERS = 1 << 24
SHAPES = (
    "an array of records or of captions, COCO's annotations with images, an object with one array of records, "
    "or captions by key"
)
IMAGE_FACTS = {*RECOGNISED["url"], *RECOGNISED["width"], *RECOGNISED["height"], "file_name"}
_DAMAGE = (OSError, EOFError, ValueError, RecursionError, pa.ArrowException)

Element = tuple[str | None, Any, bool]
Opened = Callable[[], AbstractContextManager[BinaryIO]]


def find_json_kind(stream: BinaryIO) -> str:
    """Return `jsonl` for a file of JSON lines that is named .json, else `json`."""
    lines = [line for line in islice(read_lines(stream), 100) if line is None or line.strip()]
    first = parse_json(lines[0]) if lines and lines[0] is not None else MALFORMED
    alone = isinstance(first, dict) and any(
        isinstance(value, str) and name.lower() in RECOGNISED["text"] for name, value in first.items()
    )
    return "jsonl" if isinstance(first, dict) and (len(lines) > 1 or alone) else "json"


def document_rows(opened: Opened) -> Iterator[Row]:
    """Yield the rows of a JSON document, which is read twice, since the shape of an object is known only at its end.

    Records are rows; captions in an array become column `text`. COCO's annotations are rows with the address and size
    of their image. {"key": captions}, with one caption, several, or a record, gives columns `key` and `caption`; arrays
    of records under several keys also get the column `key`. Raises ValueError for other shapes, and at damaged text.
    """
    with opened() as stream:
        shape = _survey(stream)
    with opened() as stream:
        for element in _elements(stream):
            if (row := shape.row(*element)) is not None:
                yield row


@dataclass(slots=True)
class _Shape:
    """The shape of a document: how many of its members are captions, objects, arrays of records, and others."""

    array: bool = False
    captions: int = 0
    objects: int = 0
    arrays: int = 0
    others: int = 0
    annotations: bool = False
    column: str = ""
    images: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def row(self, key: str | None, value: Any, listed: bool) -> Row | None:
        if self.array:
            return {"text": value} if isinstance(value, str) else value if isinstance(value, dict) else MALFORMED
        if not self.arrays:
            return {"key": key, **(value if isinstance(value, dict) else {"caption": value or None})}
        if not listed or not isinstance(value, dict) or (self.annotations and key != "annotations"):
            return MALFORMED if listed and self.annotations and key == "annotations" else None
        if self.annotations:
            return {**self.images.get(_hashable(value.get("image_id")), {}), **value}
        return {"key": key, **value} if self.arrays > 1 else value


def _survey(stream: BinaryIO) -> _Shape:
    """Read a document once and return its shape; raises ValueError for an unknown shape."""
    shape, last = _Shape(), None
    try:
        for key, value, listed in _elements(stream):
            if key is None:
                return _Shape(array=True)
            _count(shape, key, value, listed, again=key == last)
            last = key
    except _DAMAGE:
        if last is None or (shape.images and not shape.annotations):
            raise
    if not shape.arrays and shape.column and not shape.objects:
        raise ValueError(f"{shape.column!r} is a column or one record; known are {SHAPES}")
    if not shape.arrays and (shape.others or (shape.captions and shape.objects)):
        raise ValueError(f"its members are of no known shape; known are {SHAPES}")
    return shape


def _count(shape: _Shape, key: str, value: Any, listed: bool, *, again: bool) -> None:
    if isinstance(value, dict) and listed:
        shape.arrays += not again
        shape.annotations |= key == "annotations"
        if key == "images" and "id" in value:
            facts = {name: value[name] for name in value.keys() & IMAGE_FACTS if not isinstance(value[name], dict)}
            shape.images[_hashable(value["id"])] = facts
    elif isinstance(value, dict):
        shape.objects += 1
    elif isinstance(value, str) or (listed and value in (None, [])):
        shape.captions += 1
        shape.column = shape.column or (key if key.lower() in RECOGNISED["text"] else "")
    else:
        shape.others += 1


def _hashable(identity: Any) -> Any:
    return identity if isinstance(identity, str | int) else str(identity)


def _elements(stream: BinaryIO) -> Iterator[Element]:
    """Yield (key, value, whether it is in an array) of a document's members; the key is None in a top-level array.

    The elements of an array come one by one; an empty array under a key comes as one null.
    """
    text = _Text(stream)
    match text.peek():
        case "[":
            yield from ((None, value, True) for value in text.array())
        case "{":
            for key in text.members():
                if text.peek() != "[":
                    yield key, text.value(), False
                    continue
                empty = True
                for value in text.array():
                    empty = False
                    yield key, value, True
                if empty:
                    yield key, None, True
        case _:
            raise ValueError("it holds neither a JSON array nor a JSON object")
    if text.peek():
        raise ValueError(f"more follows the end of its JSON at character {text.position}")


class _Text:
    """An incremental JSON parser that reads one value at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._parse = json.JSONDecoder().raw_decode
        self._buffer, self._place, self._passed, self._ended = "", 0, 0, False
        self._start = True

    @property
    def position(self) -> int:
        """The number of characters before the next one."""
        return self._passed + self._place

    def peek(self) -> str:
        """Skip white space and return the next character; "" at the end."""
        while True:
            while self._place < len(self._buffer) and self._buffer[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._buffer) or not self._more():
                return self._buffer[self._place : self._place + 1]

    def array(self) -> Iterator[Any]:
        """Yield the elements of an array."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
            return
        while True:
            yield self.value()
            if self._take(",]") == "]":
                return

    def members(self) -> Iterator[str]:
        """Yield the keys of an object; the caller must read each value before the next key."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise self._error()
            self._take(":")
            yield key
            if self._take(",}") == "}":
                return

    def value(self) -> Any:
        """Return the next value, parsed completely."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._buffer, self._place)
            except json.JSONDecodeError:
                waiting = len(self._buffer) - self._place
                if waiting > MOST_CHARACTERS or not self._more(waiting):
                    raise self._error() from None
                continue
            if end < len(self._buffer) or not self._more():
                self._place = end
                return value

    def _take(self, characters: str) -> str:
        found = self.peek()
        if not found or found not in characters:
            raise self._error()
        self._place += 1
        return found

    def _more(self, least: int = 1) -> bool:
        """Read at least `least` more characters, or up to the end; return whether there were any."""
        parts = [self._buffer[self._place :]]
        while not self._ended and sum(map(len, parts[1:])) < least:
            data = self._stream.read(CHUNK)
            self._ended = not data
            parts.append(self._decode(without_mark(data) if self._start else data, self._ended))
            self._start = False
        self._passed, self._place, self._buffer = self.position, 0, "".join(parts)
        return len(parts) > 1 and any(parts[1:])

    def _error(self) -> ValueError:
        self.peek()
        return ValueError(f"its JSON breaks off, is malformed or has a value over 16 MiB at character {self.position}")
