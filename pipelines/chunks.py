"""Refine consecutive rows together, a chunk at a time, where a file is a stream and not one set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import median_low

from rag_clip.data import Features
from rag_clip.files.features import FeatureRows
from rag_clip.images.joined import JoinedFeatures
from rag_clip.images.rows import ImageFile
from rag_clip.protocols import Encoder
from rag_clip.refinement.batch import Refined, RefinementFacts
from rag_clip.refinement.sampling import sample_images

from .predictions import images_of


def refine_chunks(
    sources: Sequence[tuple[ImageFile, JoinedFeatures]],
    encoder: Encoder,
    *,
    rows: int,
    most: int,
    refine: Callable[[Features], Refined],
) -> Iterator[Refined]:
    """Yield the classifier of each chunk of `rows` rows, counted over the files in their order, the last one shorter.

    Nothing is carried from one chunk to the next. Of a chunk of more than `most` images a sample is taken, so memory
    holds twice that many images, and a shard.
    """
    for _, pieces in groupby(_pieces(sources, encoder, rows), key=lambda piece: piece[0]):
        images = sample_images((features for _, features in pieces), most)
        assert images is not None  # a chunk has rows, if none that could be read
        yield refine(images)


def _pieces(
    sources: Sequence[tuple[ImageFile, JoinedFeatures]], encoder: Encoder, size: int
) -> Iterator[tuple[int, Features]]:
    """Yield the good images of each part of a shard that lies in one chunk, and the number of the chunk."""
    before = 0
    for _, cache in sources:
        for start, _ in cache.spans():
            features = cache.read(start)
            for first, end in _cuts(before, before + len(features.errors), size):
                part = features.cut(first - before, end - before)
                yield first // size, images_of(part, part.good, encoder.device)
            before += len(features.errors)


def _cuts(first: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Divide [first, end) at the multiples of `size`."""
    while first < end:
        following = min(end, (first // size + 1) * size)
        yield first, following
        first = following


@dataclass(slots=True)
class Chunks:
    """The classifiers of the chunks of `size` rows, in order, as shards of features come by."""

    size: int
    classifiers: Iterator[Refined]
    row: int = 0
    current: Refined | None = None
    facts: list[RefinementFacts] = field(default_factory=list)

    def parts(self, features: FeatureRows) -> Iterator[tuple[FeatureRows, Refined]]:
        """Yield the parts of the next shard that lie in one chunk, and the classifier of the chunk."""
        before = self.row
        for first, end in _cuts(before, before + len(features.errors), self.size):
            if first % self.size == 0:
                self.current = next(self.classifiers)
                self.facts.append(self.current.facts)
            assert self.current is not None
            yield features.cut(first - before, end - before), self.current
        self.row += len(features.errors)

    def total(self, predicted: int) -> RefinementFacts:
        """Return the facts of all chunks: sums and means over images, the median concentration."""
        images = sum(each.images for each in self.facts)
        weight, changed = (
            sum(each.images * getattr(each, name) for each in self.facts) / max(images, 1)
            for name in ("weight", "changed")
        )
        spreads = [each.concentration for each in self.facts if each.concentration is not None]
        return RefinementFacts(images, weight, median_low(spreads) if spreads else None, changed, predicted, self.size)
