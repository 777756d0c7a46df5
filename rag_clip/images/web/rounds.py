"""The state of a download on disk: rounds of addresses, each a list and the folder that img2dataset fills from it.

A round is written before it is begun and finished before the next: an interrupted download continues where it stopped.
The last status that img2dataset gives an address counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from rag_clip.files.atomic import replacing
from rag_clip.files.folders import make_folder

SHARD_PAIRS = 10_000
SHARD_ROWS = b"rag_clip.shard_rows"
OPTED_OUT = "Use of image disallowed by X-Robots-Tag directive"
NO_STATUS = "img2dataset recorded no status"
PAIR = ("url", "caption")


@dataclass(frozen=True, slots=True)
class Round:
    """Round `number` of the download in `output`."""

    output: Path
    number: int

    @property
    def folder(self) -> Path:
        """Where img2dataset writes tars, Parquet files of statuses, and statistics."""
        return self.output / f"round-{self.number:03d}"

    @property
    def addresses(self) -> Path:
        """The list: a Parquet file with the columns url and caption."""
        return self.folder.with_suffix(".parquet")

    @property
    def shards(self) -> int:
        """How many shards the list makes."""
        return -(-self.rows // self.shard_rows)

    @property
    def shard_rows(self) -> int:
        """How many addresses make a shard, as the list records."""
        metadata = pq.read_schema(self.addresses).metadata or {}
        return int(metadata.get(SHARD_ROWS, SHARD_PAIRS))

    @property
    def rows(self) -> int:
        """How many addresses the list has."""
        return int(pl.scan_parquet(self.addresses).select(pl.len()).collect().item())

    def done(self) -> dict[Path, int]:
        """The statuses of each finished shard, and its number of addresses."""
        return {
            path.with_name(f"{path.name.removesuffix('_stats.json')}.parquet"): json.loads(path.read_text())["count"]
            for path in sorted(self.folder.glob("*_stats.json"))
        }

    def statuses(self) -> pl.DataFrame:
        """Return url, caption, status and error_message of every address in the finished shards."""
        shards = self.done()
        columns = [*PAIR, "status", "error_message"]
        found = [pl.read_parquet(path, columns=columns).cast(pl.String) for path in shards]
        known = pl.concat([pl.DataFrame(schema=dict.fromkeys(columns, pl.String)), *found])
        if len(shards) < self.shards:
            return known
        lost = pl.read_parquet(self.addresses).join(known, on=PAIR, how="anti", nulls_equal=True)
        return pl.concat([known, lost.with_columns(status=pl.lit("lost"), error_message=pl.lit(NO_STATUS))])


def list_rounds(output: Path) -> list[Round]:
    """Return the rounds begun in `output`, in order."""
    numbers = sorted(int(path.stem.removeprefix("round-")) for path in output.glob("round-*.parquet"))
    return [Round(output, number) for number in numbers]


def begin_round(output: Path, addresses: pl.DataFrame, *, shard_rows: int = SHARD_PAIRS) -> Round:
    """Write the list of a new round, in shards of `shard_rows` addresses."""
    fresh = Round(output, len(list_rounds(output)))
    make_folder(fresh.folder)
    with replacing(fresh.addresses) as partial:
        table = addresses.select(PAIR).to_arrow()
        pq.write_table(table.replace_schema_metadata({SHARD_ROWS: str(shard_rows).encode()}), partial)
    return fresh


def known_addresses(rounds: list[Round]) -> pl.DataFrame:
    """Return every address of the rounds once, with its caption."""
    lists = [pl.read_parquet(turn.addresses) for turn in rounds]
    return pl.concat([pl.DataFrame(schema=dict.fromkeys(PAIR, pl.String)), *lists]).unique(maintain_order=True)


def latest_statuses(rounds: list[Round]) -> pl.DataFrame:
    """Return the last status of every address that has one."""
    found = [turn.statuses() for turn in rounds]
    return pl.concat(found).unique(PAIR, keep="last", maintain_order=True) if found else pl.DataFrame()


def failed_addresses(rounds: list[Round]) -> pl.DataFrame:
    """Return the addresses whose last status is a failure, except for those whose owner opted out."""
    statuses = latest_statuses(rounds)
    if not len(statuses):
        return pl.DataFrame(schema=dict.fromkeys(PAIR, pl.String))
    failed = (pl.col("status") != "success") & (pl.col("error_message").fill_null("") != OPTED_OUT)
    return statuses.filter(failed).select(PAIR)
