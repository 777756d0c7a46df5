"""The rows that could not be used, each with its reason, in one file beside the shards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rag_clip.files.atomic import replacing
from rag_clip.images.shards import PairShards

FAILURES = "failed.parquet"
COLUMNS = ("file", "key", "url", "text", "error")
_QUOTED_OR_NUMBER = re.compile(r"'.*?'|\d+(?:,\d+)*")


def list_failures(parts: Sequence[PairShards], path: Path) -> Counter[str]:
    """Write the rows with an error to `path`; count them by reason, what is particular to one row left out."""
    reasons = Counter[str]()
    kind = pa.schema([(name, pa.string()) for name in COLUMNS])
    with replacing(path) as partial, pq.ParquetWriter(partial, kind, write_page_checksum=True) as writer:
        for part in parts:
            for table in part.read(COLUMNS[1:]):
                failed = table.filter(pc.is_valid(table["error"]))
                file = pa.repeat(pa.scalar(str(part.path)), len(failed))
                columns = [file, *(failed[name] for name in COLUMNS[1:])]
                writer.write_table(pa.table(columns, schema=kind))
                reasons.update(_kind(error) for error in failed["error"].to_pylist())
    return reasons


def _kind(error: str) -> str:
    """Leave out of an error what is particular to its row, and what to do about it."""
    return re.split(r"; | \(", _QUOTED_OR_NUMBER.sub("...", error))[0]
