"""Features of the same images by several encoders: a cache for each, joined row by row as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_clip.files.features import FeatureCache, FeatureRows
from rag_clip.images.decoding import Decoding
from rag_clip.images.features import encode_files
from rag_clip.images.rows import ImageFile
from rag_clip.progress import StageClock
from rag_clip.protocols import Encoder


@dataclass(frozen=True, slots=True)
class JoinedFeatures:
    """The caches of one image file: that of the main encoder, and those of the `others` by name."""

    main: FeatureCache
    others: Mapping[str, FeatureCache]

    def spans(self) -> Iterator[tuple[int, int]]:
        """First row and end of each shard, in order; the same in every cache."""
        return self.main.spans()

    def read(self, start: int) -> FeatureRows:
        """Load the shard that begins at row `start`; a row has an error where it has one in any cache.

        Raises OSError or ValueError where a shard is gone or damaged.
        """
        main, others = self.main.read(start), {name: cache.read(start) for name, cache in self.others.items()}
        errors = list(main.errors)
        for name, found in others.items():
            for row, error in enumerate(found.errors):
                if errors[row] is None and error is not None:
                    errors[row] = f"{name}: {error}"
        return FeatureRows(main.pooled, tuple(errors), {name: found.pooled for name, found in others.items()})

    def count_failed(self) -> int:
        """Add up the rows with an error in all shards, all of which must be there."""
        if not self.others:
            return self.main.count_failed()
        shards = (self.read(start) for start, _ in self.spans())
        return sum(len(shard.errors) - len(shard.good) for shard in shards)


def encode_by_all(
    files: Sequence[ImageFile],
    root: str | Path,
    *,
    encoder: Encoder,
    others: Mapping[str, Encoder],
    decoding: Decoding,
    clock: StageClock | None = None,
) -> tuple[list[tuple[ImageFile, JoinedFeatures]], int]:
    """Do as `encode_files` for `encoder` and each of the `others`; images are decoded once for each.

    The second number is of the rows that were encoded now, by the encoder that lacked most.
    """
    lists, missing = [], []
    for each in (encoder, *others.values()):
        sources, lacking = encode_files(files, root, encoder=each, decoding=decoding, clock=clock)
        lists.append([cache for _, cache in sources])
        missing.append(lacking)
    by_file = zip(*lists, strict=True)
    joined = [JoinedFeatures(main, dict(zip(others, rest, strict=True))) for main, *rest in by_file]
    return list(zip(files, joined, strict=True)), max(missing)
