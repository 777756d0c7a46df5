"""A Parquet file of measures, a row each, as the further kinds of `evaluate` write it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.files.atomic import replacing


def write_measures(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    kind: bytes,
    facts: Mapping[str, Any],
    schema: pa.Schema | None = None,
) -> None:
    """Write rows to a file that appears whole, with page checksums.

    kind: the metadata key that marks the file as one of `evaluate` (see `files.outputs`); its value is `facts` as JSON.
    schema: of the rows; by default that of the first row.
    """
    table = pa.Table.from_pylist(list(rows), schema).replace_schema_metadata({kind: json.dumps(facts)})
    with replacing(path) as partial:
        pq.write_table(table, partial, write_page_checksum=True)
