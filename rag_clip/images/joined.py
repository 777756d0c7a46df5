"""Features of the same images from several encoders: one cache per encoder, joined row by row when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_clip.files.features import FeatureCache, FeatureRows
from rag_clip.images.decoding import Decoding
from rag_clip.images.features import encode_files
from rag_clip.images.rows import ImageFile
from rag_clip.progress import Progress
from rag_clip.protocols import Encoder


@dataclass(frozen=True, slots=True)
class JoinedFeatures:
    """The feature caches of one image file: of the main encoder, and of the `others` by encoder name."""

    main: FeatureCache
    others: Mapping[str, FeatureCache]

    def spans(self) -> Iterator[tuple[int, int]]:
        """Return (first row, end) of each shard, in order; the same in every cache."""
        return self.main.spans()

    def read(self, start: int) -> FeatureRows:
        """Load the shard that begins at row `start`; a row with an error in any cache has an error.

        Raises OSError or ValueError if a shard is missing or damaged.
        """
        main, others = self.main.read(start), {name: cache.read(start) for name, cache in self.others.items()}
        errors = list(main.errors)
        for name, features in others.items():
            for row, error in enumerate(features.errors):
                if errors[row] is None and error is not None:
                    errors[row] = f"{name}: {error}"
        return FeatureRows(main.pooled, tuple(errors), {name: features.pooled for name, features in others.items()})

    def count_failed(self) -> int:
        """Return the number of rows with an error; every shard must exist."""
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
    progress: Progress | None = None,
) -> tuple[list[tuple[ImageFile, JoinedFeatures]], int]:
    """Fill the caches of `encoder` and of each of the `others`, as `encode_files` does; return them by file.

    The parameters are those of `encode_files`. Every encoder decodes the images again, with its own preprocessing. The
    second value is the largest number of rows that an encoder encoded now.
    """
    lists, missing = [], []
    for each in (encoder, *others.values()):
        sources, encoded = encode_files(files, root, encoder=each, decoding=decoding, progress=progress)
        lists.append([cache for _, cache in sources])
        missing.append(encoded)
    by_file = zip(*lists, strict=True)
    joined = [JoinedFeatures(main, dict(zip(others, rest, strict=True))) for main, *rest in by_file]
    return list(zip(files, joined, strict=True)), max(missing)
