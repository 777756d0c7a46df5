"""Names for images, from the phrases of the captions nearest to them: without a label set, or beside one.

The method is ours; the task, naming images without a vocabulary, is that of CaSED (Conti et al., 2023, "Vocabulary-free
Image Classification", NeurIPS, arXiv 2306.00917), which names each image alone. Here the images of a file share names.
For image i with features x_i, v_ip is the share of its K nearest captions that hold phrase p, f_p the share of all
captions that do, and m_p the mean vector of the captions nearest to any image that hold p:

    e_ip = K KL(v_ip || f_p) where v_ip > f_p, otherwise 0       nats by which its captions speak for p beyond chance
    z_i  = softmax_p( s cos(x_i, m_p) + 0.3 e_ip ),   n_p = sum_i z_ip

The twentieth of the names with the smallest n_p below `least` goes, and the rest share its images, until every name
that is left explains `least` images or more; one that is the best of no image goes too. Of nested phrases that stand in
the same captions the longest is used.

Classes that are present already take part with their own vectors, are spoken for by their names, and never go; a name
must explain an image better than they do by 10 nats, so that the best of thousands of phrases does not win by chance.
0.3, K = 20 and the 10 nats were settled on the micro world (tests/benchmarks/discover.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from torch.nn.functional import normalize

from rag_clip.corpus.phrases import LONGEST, phrases_in

NEAREST = 20
CAPTIONS_WEIGHT = 0.3
MARGIN = 10.0
FEWEST_CAPTIONS, FEWEST_IMAGES = 2, 2
MOST_COUNTED, MOST_PHRASES = 50_000, 4_000
SAME_CAPTIONS = 0.6
PRUNED = 0.05
PAIRS_AT_ONCE = 1 << 18
EXAMPLES = 3
FREQUENCIES = {"gram": pl.String, "often": pl.Float64}


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The captions nearest to each of n images.

    rows: the K captions of each image, int64 [n, K], rows of `texts`.
    texts: the captions, each once.
    vectors: their unit vectors, [t, d].
    """

    rows: np.ndarray
    texts: Sequence[str]
    vectors: torch.Tensor

    @cached_property
    def phrases(self) -> pl.DataFrame:
        """The phrases of each caption: columns `row`, of `texts`, and `gram`."""
        return phrases_in(pl.Series(self.texts, dtype=pl.String))

    @cached_property
    def votes(self) -> pl.DataFrame:
        """The share of an image's captions that hold a phrase, of two or more captions: `image`, `gram`, `share`."""
        images, nearest = self.rows.shape
        pairs = pl.DataFrame({"image": np.repeat(np.arange(images), nearest), "row": self.rows.reshape(-1)})
        held = pairs.join(self.phrases, on="row").group_by("image", "gram").len()
        return held.filter(pl.col("len") >= FEWEST_CAPTIONS).select(
            "image", "gram", share=pl.col("len").cast(pl.Float64) / nearest
        )

    def candidates(self) -> list[str]:
        """Return the phrases that may be names, by the sum of their shares: those of two or more images.

        Of phrases within each other that stand for the same captions, the longest is left.
        """
        totals = self.votes.group_by("gram").agg(pl.len().alias("images"), pl.col("share").sum())
        totals = totals.filter(pl.col("images") >= FEWEST_IMAGES).sort(["share", "gram"], descending=[True, False])
        shares = dict(totals.head(MOST_COUNTED).select("gram", "share").iter_rows())
        inside = {
            part
            for phrase, share in shares.items()
            for part in _parts(phrase)
            if share >= SAME_CAPTIONS * shares.get(part, np.inf)
        }
        return [phrase for phrase in shares if phrase not in inside]


def _parts(phrase: str) -> list[str]:
    words = phrase.split(" ")
    return [
        " ".join(words[start : start + size])
        for size in range(1, min(len(words), LONGEST))
        for start in range(len(words) - size + 1)
    ]


@dataclass(frozen=True, slots=True)
class Present:
    """Classes that images may show already: unit vectors [c, d], and the phrases of each class's name and synonyms."""

    vectors: torch.Tensor
    spellings: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Name:
    """A name that was found.

    phrase: in lower case, words apart.
    images: how many of the images it explains, the sum of their shares.
    best: the images that it explains best, best first.
    captions: rows of the captions that hold it, the nearest to its images first.
    also: other phrases that the captions of these images share.
    takes: by present class, how many of the images would otherwise have its label.
    """

    phrase: str
    images: float
    best: tuple[int, ...]
    captions: tuple[int, ...]
    also: tuple[str, ...]
    takes: Mapping[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The names found, those of most images first, and what each image is called: [n], classes present come first.

    Where nothing is found and nothing was present, no image is called anything: [0].
    """

    names: tuple[Name, ...]
    assigned: torch.Tensor


@torch.no_grad()
def find_names(
    images: torch.Tensor,
    neighbours: Neighbours,
    frequencies: Mapping[str, float],
    *,
    scale: float,
    least: float,
    present: Present | None = None,
) -> Found:
    """Return names for images.

    images: unit features [n, d].
    neighbours: the captions nearest to them.
    frequencies: the share of all captions that hold each candidate (see `Neighbours.candidates`) and each spelling of
        the present classes. Other phrases are not considered.
    scale: the encoder's scale.
    least: how many images a name must explain.
    present: classes that take part.
    """
    spellings = list(present.spellings) if present else []
    evidence, fixed = _evidence(neighbours, frequencies), len(spellings)
    phrases = _most_spoken(evidence, besides={phrase for group in spellings for phrase in group})
    vectors = _means(neighbours, phrases).to(images)  # [p, d]
    if present:
        vectors = torch.cat([present.vectors.to(images), vectors])  # [c + p, d]
    columns = [
        (phrase, row) for row, group in enumerate([*spellings, *([phrase] for phrase in phrases)]) for phrase in group
    ]
    said = _matrix(evidence, columns, (len(images), len(vectors))).to(images)  # [n, c + p]
    scores = scale * images @ vectors.T + CAPTIONS_WEIGHT * said
    scores[:, :fixed] += MARGIN
    alive = _prune(scores, fixed=fixed, least=least)  # [a]
    if not len(alive):
        return Found((), torch.empty(0, dtype=torch.int64))
    counts = scores[:, alive].softmax(1).sum(0).tolist()  # [a]
    order = [*range(fixed), *sorted(range(fixed, len(alive)), key=lambda place: -counts[place])]
    scores = scores[:, alive[order]]  # [n, a]
    assigned, alone = scores.argmax(1), scores[:, :fixed].argmax(1) if fixed else None
    names = []
    for place, old in enumerate(order[fixed:], start=fixed):
        phrase = phrases[int(alive[old]) - fixed]
        rows = (assigned == place).nonzero()[:, 0]
        best = rows[scores[rows, place].argsort(descending=True, stable=True)]
        takes = {} if alone is None else Counter(alone[rows].tolist())
        captions = _nearest_captions(neighbours, phrase, images[rows])
        names.append(
            Name(phrase, counts[old], tuple(best.tolist()), captions, _said_too(evidence, rows.tolist(), phrase), takes)
        )
    return Found(tuple(names), assigned)


def _evidence(neighbours: Neighbours, frequencies: Mapping[str, float]) -> pl.DataFrame:
    """Return e of the images and candidates where it is above 0: columns `image`, `gram` and `nats`."""
    given = pl.DataFrame({"gram": list(frequencies), "often": list(frequencies.values())}, FREQUENCIES)
    share, often = pl.col("share"), pl.col("often").clip(1e-9, 1 - 1e-9)
    rest = pl.when(share < 1).then((1 - share) * ((1 - share) / (1 - often)).log()).otherwise(0.0)
    nats = neighbours.rows.shape[1] * (share * (share / often).log() + rest)
    return neighbours.votes.join(given, on="gram").filter(share > often).select("image", "gram", nats=nats)


def _most_spoken(evidence: pl.DataFrame, *, besides: set[str]) -> list[str]:
    totals = evidence.group_by("gram").agg(pl.col("nats").sum())
    found = totals.filter(~pl.col("gram").is_in(sorted(besides)))
    return found.sort(["nats", "gram"], descending=[True, False])["gram"].head(MOST_PHRASES).to_list()


def _means(neighbours: Neighbours, phrases: Sequence[str]) -> torch.Tensor:
    """Return the unit mean of the captions that hold each phrase, [p, d]."""
    held = neighbours.phrases.join(_numbered(phrases), on="gram").sort("column", "row")
    rows, columns = (torch.from_numpy(held[name].to_numpy().astype(np.int64)) for name in ("row", "column"))
    sums = torch.zeros(len(phrases), neighbours.vectors.shape[1])
    for part in range(0, len(rows), PAIRS_AT_ONCE):
        some = slice(part, part + PAIRS_AT_ONCE)
        sums.index_add_(0, columns[some], neighbours.vectors[rows[some]])
    return normalize(sums, dim=1)


def _numbered(phrases: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({"gram": list(phrases), "column": range(len(phrases))}, {"gram": pl.String, "column": pl.Int64})


def _matrix(evidence: pl.DataFrame, columns: Sequence[tuple[str, int]], shape: tuple[int, int]) -> torch.Tensor:
    """Return e [n, c + p]; of several spellings of a class the best counts."""
    numbered = pl.DataFrame(columns, {"gram": pl.String, "column": pl.Int64}, orient="row")
    best = evidence.join(numbered, on="gram").group_by("image", "column").agg(pl.col("nats").max())
    matrix = torch.zeros(shape)
    rows, places, nats = (torch.from_numpy(best[name].to_numpy().copy()) for name in ("image", "column", "nats"))
    matrix[rows.long(), places] = nats.float()
    return matrix


def _prune(scores: torch.Tensor, *, fixed: int, least: float) -> torch.Tensor:
    """Return the columns [a] of scores [n, c + p] that are left, in order: the first `fixed`, and names of `least`
    images or more that are the best of one at least.
    """
    alive = torch.arange(scores.shape[1], device=scores.device)
    while len(alive) > fixed:
        counts = scores[:, alive].softmax(1).sum(0)
        low = (counts < least).nonzero()[:, 0]
        low = low[low >= fixed]
        if not len(low):
            break
        most = max(1, int(PRUNED * (len(alive) - fixed)))
        gone = low[counts[low].argsort(stable=True)[:most]]
        stays = torch.ones(len(alive), dtype=torch.bool, device=alive.device)
        stays[gone] = False
        alive = alive[stays]
    best = set(scores[:, alive].argmax(1).tolist()) if len(alive) else set()
    return alive[[place for place in range(len(alive)) if place < fixed or place in best]]


def _nearest_captions(neighbours: Neighbours, phrase: str, images: torch.Tensor) -> tuple[int, ...]:
    rows = neighbours.phrases.filter(pl.col("gram") == phrase)["row"].to_list()
    near = neighbours.vectors[rows] @ images.mean(0).to(neighbours.vectors)  # [h]
    return tuple(rows[place] for place in near.argsort(descending=True, stable=True)[:EXAMPLES].tolist())


def _said_too(evidence: pl.DataFrame, images: Sequence[int], phrase: str) -> tuple[str, ...]:
    """Return the phrases that speak most for some images, without those in `phrase` or around it."""
    own = evidence.filter(pl.col("image").is_in(list(images))).group_by("gram").agg(pl.col("nats").sum())
    ranked = own.sort(["nats", "gram"], descending=[True, False])["gram"].head(10 * EXAMPLES).to_list()
    found: list[str] = []
    for other in ranked:
        if not any(_within(each, other) or _within(other, each) for each in (phrase, *found)):
            found.append(other)
    return tuple(found[:EXAMPLES])


def _within(part: str, phrase: str) -> bool:
    return f" {part} " in f" {phrase} "
