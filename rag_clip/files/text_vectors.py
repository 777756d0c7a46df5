"""Vectors of the texts of a prompts file, kept beside it as PROMPTS.vectors, so that nothing encodes them again.

The file serves speed alone: where it is missing, damaged, or of another encoder, precision or kind of device, the texts
are encoded. A vector depends on its text and encoder only, so the file stays right when the prompts are edited.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from rag_clip.data import EncodedTexts, Prompts, read_fingerprint
from rag_clip.files.reading import metadata_document, read_schema
from rag_clip.files.regular import is_regular
from rag_clip.files.sealed import SEAL, read_sealed, write_sealed

METADATA = b"rag_clip.text_vectors"
SUFFIX = ".vectors"
MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class KeptVectors:
    """The vectors beside a prompts file, which are read when they are needed."""

    path: Path

    def read(self) -> EncodedTexts | None:
        """Return what the file has; None for a missing or damaged file, and for any other."""
        try:
            return _read(self.path) if is_regular(self.path) else None
        except (OSError, ValueError):
            return None


def vectors_of(path: Path) -> Path:
    """Return the place of the vectors of the prompts file `path`."""
    return path.with_name(path.name + SUFFIX)


def keep_vectors(prompts: Prompts, path: Path) -> None:
    """Keep the vectors that are known of the texts of `prompts` at `path`; delete the file where none are.

    A file of another program stays, more than `MOST_BYTES` of vectors are not kept, and a place that cannot be written
    to is no error.
    """
    with suppress(OSError):
        if os.path.lexists(path) and not _is_ours(path):
            return
        found = prompts.encoded.read() if prompts.encoded is not None else None
        rows = {text: row for row, text in enumerate(found.texts)} if found else {}
        texts = [text for text in dict.fromkeys(one.text for group in prompts.texts for one in group) if text in rows]
        if found is None or not 0 < len(texts) * found.vectors.shape[1] * 4 <= MOST_BYTES:
            path.unlink(missing_ok=True)
            return
        _write(texts, found.vectors[[rows[text] for text in texts]], found, path)


def _write(texts: list[str], vectors: np.ndarray, found: EncodedTexts, path: Path) -> None:
    width = vectors.shape[1]
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), width)
    facts = json.dumps({"encoder": asdict(found.encoder), "device": found.device})
    table = pa.table({"text": pa.array(texts, pa.string()), "vector": values}, metadata={METADATA: facts})
    write_sealed(table, path, compression="none", use_dictionary=False)


def _read(path: Path) -> EncodedTexts | None:
    if SEAL not in (read_schema(path).metadata or {}):
        return None
    table = read_sealed(path, ["text", "vector"])
    facts = metadata_document(table.schema, METADATA)
    kind = table.schema.field("vector").type
    if facts is None or not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        return None
    vectors = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    texts = tuple(table["text"].to_pylist())
    encoder, device = read_fingerprint(facts.get("encoder")), str(facts.get("device"))
    return EncodedTexts(texts, vectors.reshape(len(texts), kind.list_size), encoder, device)


def _is_ours(path: Path) -> bool:
    """Return whether a file holds our vectors, damaged ones and an empty file included."""
    if not is_regular(path):
        return False
    try:
        return METADATA in (read_schema(path).metadata or {})
    except ValueError:
        with path.open("rb") as file:
            return file.read(4) in (b"PAR1", b"")
