"""Which shards of a corpus remain to be embedded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rag_clip.captions.pieces import Piece, cut
from rag_clip.captions.shards import Manifest, ShardFolder, shard_key
from rag_clip.captions.sources.finding import SourceFile
from rag_clip.data import Fingerprint


@dataclass(frozen=True, slots=True)
class Plan:
    """The shards that a run has to make.

    settings: hash of everything that decides which captions are kept.
    encoder: of the vectors.
    folder: how many rows make a shard, which part this run makes, and whether it makes failed shards again.
    there: manifests of existing shards, by key.
    """

    settings: str
    encoder: Fingerprint
    folder: ShardFolder
    there: Mapping[str, Manifest]

    def missing(self, sources: Sequence[SourceFile]) -> Iterator[tuple[str, Piece]]:
        """Read the files and yield (key, piece) of every missing shard; rows before the first are skipped."""
        for source in sources:
            start = self._first_missing(source)
            if start is None:
                continue
            for piece in cut(source, self.folder.rows, start=start):
                key = self._key(source, piece.start)
                if self._is_ours(source, piece.start) and not self._has(key):
                    yield key, piece

    def select(self, sources: Sequence[SourceFile], manifests: Mapping[str, Manifest]) -> list[Manifest]:
        """Return the manifests of this run's part, sorted by file and row."""
        named = {source.address: source for source in sources}
        chosen = [
            manifest
            for manifest in manifests.values()
            if (source := named.get(manifest.url)) is not None
            and manifest.key == self._key(source, manifest.start)
            and self._is_ours(source, manifest.start)
        ]
        return sorted(chosen, key=lambda manifest: (manifest.url, manifest.start))

    def _key(self, source: SourceFile, start: int) -> str:
        return shard_key(source, start, self.folder.rows, self.settings, self.encoder)

    def _is_ours(self, source: SourceFile, start: int) -> bool:
        """Return whether a shard is in this part; it is in exactly one, independent of other files in the corpus."""
        offset = int(hashlib.sha256(f"{source.address} {source.identity}".encode()).hexdigest()[:8], 16)
        part, parts = self.folder.part
        return (offset + start // self.folder.rows) % parts == part

    def _has(self, key: str) -> bool:
        manifest = self.there.get(key)
        return manifest is not None and not (self.folder.retry_failed and manifest.status == "failed")

    def _first_missing(self, source: SourceFile) -> int | None:
        """Return the row of the first missing shard; None for a finished file."""
        start = 0
        while source.rows is None or start < source.rows:
            manifest = self.there.get(self._key(source, start))
            ours = self._is_ours(source, start)
            if (ours and not self._has(self._key(source, start))) or (manifest is None and source.rows is None):
                return start
            if manifest is not None and manifest.last:
                return None
            if manifest is not None and manifest.status == "failed":
                return start if self.folder.retry_failed else None
            start += self.folder.rows
        return None
