"""IDEA: tags seen in an image are taught, and put in words as a second text (Huang et al., 2022, arXiv 2207.05333).

    L_tag = mean -W_g (z log sigma(o) + (1 - z) log(1 - sigma(o)))      W_g = captions / captions with tag g
    z = y, the tags in the captions;  after the first epochs z = max(y, [sigma(o) > 0.6])
    L_itc = InfoNCE with a second text u, the names of z, for images whose z has a tag that y lacks
    L = log(L_itc + 0.001) + log(L_tag + 0.001)

o [n, g] are the logits of a recogniser, one learned query per tag that attends to the patch tokens. It is dropped after
training. With one more text, InfoNCE is the mean over positives, n + |u| in either direction.

The authors' code differs: the second text of images without one is the empty text, a negative of all (here there is
none); it divides the directions by n and by 2n (here by their positives); it divides each loss by its own value, which
has the gradient of its logarithm, without a floor; its weights reach 93,000 (here at most 100); and tags are decided in
training mode (here before each epoch, in evaluation mode, on whole images). Where captions leave out half of what is
true, no tag is more than half probable, so that the threshold must be lower than the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from rag_clip.corpus.counts.tokens import grams_of, spoken, words_of
from rag_clip.corpus.phrases import LONGEST, frequent_phrases, joined
from rag_clip.training.batches import Batch
from rag_clip.training.contrast import info_nce, same_pairs
from rag_clip.training.episode import evaluating, whole_batches
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers

FLOOR = 1e-3
COUNTED = 10_000  # images whose tags are counted at once


@dataclass(frozen=True, slots=True)
class Idea:
    """Settings, with the paper's defaults where it has them.

    tags: words or phrases of up to three words to look for in captions; () for those that the captions say most often.
    most: how many are counted, if none are given.
    recognise: whether tags are recognised; if not, it is CLIP.
    threshold: probability above which a tag is taken for seen.
    warm_up: epochs in which the tags are those of the captions.
    heaviest: the highest weight of a tag.
    episode: images of an epoch, at most all; all of them are looked at before it.
    mask_equal: as in CLIP.

    Raises ValueError for a threshold outside (0, 1), and for a tag without or with too many words.
    """

    tags: tuple[str, ...] = ()
    most: int = 200
    recognise: bool = True
    threshold: float = 0.6
    warm_up: int = 1
    heaviest: float = 100.0
    episode: int = 50_000
    mask_equal: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"the threshold is {self.threshold}; give a probability above 0 and below 1")
        for tag in self.tags:
            if not 0 < len(spoken(tag)) <= LONGEST:
                raise ValueError(f"the tag {tag!r} has {len(spoken(tag))} words; give one to {LONGEST}")

    @property
    def needs(self) -> Needs:
        """Pairs, and patch tokens for the recogniser."""
        return Needs(patches=self.recognise, episode=self.episode)

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss; raises ValueError if no caption has a tag."""
        return IdeaLoss(towers, self, setting)


class Recogniser(nn.Module):
    """Logits of g tags from patch tokens: a learned query for each attends to them once."""

    def __init__(self, tags: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tags, width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, max(1, width // 32), batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.weight, self.bias = nn.Parameter(torch.randn(tags, width) / width**0.5), nn.Parameter(torch.zeros(tags))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return logits [n, g] of patch tokens [n, p, D]."""
        queries = self.queries.expand(len(patches), -1, -1)  # [n, g, D]
        found = self.norm(queries + self.attention(queries, patches, patches, need_weights=False)[0])  # [n, g, D]
        logits: torch.Tensor = (found * self.weight).sum(-1) + self.bias
        return logits


class IdeaLoss(nn.Module):
    """The loss of a batch of pairs.

    found: the tags recognised in each image of the examples, bool [N, g].
    """

    found: torch.Tensor
    weights: torch.Tensor  # [g]

    def __init__(self, towers: Towers, settings: Idea, setting: Setting) -> None:
        super().__init__()
        self.towers, self.settings, self.setting = towers, settings, setting
        if not settings.recognise:
            return
        captions = setting.examples.captions
        texts = pl.Series([text for choice in captions for text in choice], dtype=pl.String)
        self.tags = settings.tags or tuple(frequent_phrases([texts], most=settings.most))
        parts = torch.split(torch.arange(len(captions)), COUNTED) if self.tags else ()
        counts = torch.stack([self.said(part).sum(0) for part in parts]).sum(0) if self.tags else torch.zeros(0)
        self.tags = tuple(tag for tag, count in zip(self.tags, counts.tolist(), strict=True) if count)
        if not self.tags:
            raise ValueError("no caption has one of the tags; give tags that captions say, in lower or upper case")
        self.recogniser = Recogniser(len(self.tags), towers.backbone_width)
        self.register_buffer("found", torch.zeros(len(captions), len(self.tags), dtype=torch.bool))
        self.register_buffer("weights", (len(captions) / counts[counts > 0]).clamp(max=settings.heaviest))

    @property
    def facts(self) -> dict[str, float]:
        """The number of tags, and how many are recognised in an image on average."""
        if not self.settings.recognise:
            return {}
        return {"tags": float(len(self.tags)), "tags recognised per image": float(self.found.sum(1).float().mean())}

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        same = same_pairs(batch) if self.settings.mask_equal else None
        if not self.settings.recognise:
            images, texts = self.towers.embed_images(batch), self.towers.embed_texts(batch.texts)  # [n, d] each
            return info_nce(self.towers.scale * images @ texts.T, same)
        images, patches = self.towers.embed_whole(batch)
        said = self.said(batch.rows).to(images.device)  # [n, g]
        tags = said | self.found[batch.rows]
        more = (tags & ~said).any(1)
        second = [self.name(row) for row in tags[more]]
        contrast = self._contrast(batch, images, same, second, more)
        told = binary_cross_entropy_with_logits(
            self.recogniser(patches), tags.float(), weight=self.weights.expand(len(tags), -1)
        )
        return (contrast + FLOOR).log() + (told + FLOOR).log()

    def _contrast(
        self,
        batch: Batch,
        images: torch.Tensor,
        same: torch.Tensor | None,
        second: Sequence[str],
        more: torch.Tensor,
    ) -> torch.Tensor:
        texts = self.towers.embed_texts([*batch.texts, *second])  # [n + u, d]
        logits = self.towers.scale * images @ texts.T  # [n, n + u]
        if not second:
            return info_nce(logits, same)
        owners = more.nonzero().flatten()  # [u]
        positives = torch.cat([torch.eye(len(batch), device=logits.device), _columns(owners, len(batch))], 1)
        hidden = None
        if self.settings.mask_equal:
            hidden = _equal(batch, [*batch.texts, *second], owners.cpu()).to(logits.device) & (positives == 0)
        rows, columns = two_text_losses(logits, logits.T, positives, hidden)
        return (rows + columns) / (2 * positives.sum())

    def said(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the tags that any caption of each image has, bool [n, g]."""
        captions = self.setting.examples.captions
        owners = [place for place, row in enumerate(rows.tolist()) for _ in captions[row]]
        found = tags_in([text for row in rows.tolist() for text in captions[row]], self.tags)  # [t, g]
        return torch.zeros(len(rows), len(self.tags)).index_add_(0, torch.tensor(owners), found.float()) > 0

    def name(self, tags: torch.Tensor) -> str:
        """Return the names of tags, bool [g], as a text."""
        return ", ".join(joined([self.tags[number] for number in tags.nonzero().flatten().tolist()]))

    def begin_epoch(self, epoch: int, rows: torch.Tensor) -> None:
        """Recognise the tags of the images `rows`, by the towers as they stand."""
        if not self.settings.recognise or epoch < self.settings.warm_up:
            return
        with evaluating(self.towers, self):
            for part in whole_batches(self.setting, rows):
                probability = self.recogniser(self.towers.embed_patches(part)).sigmoid()
                self.found[part.rows] = probability > self.settings.threshold


def tags_in(texts: Sequence[str], tags: Sequence[str]) -> torch.Tensor:
    """Return which tags each text has as whole words in their order, case ignored, bool [t, g]."""
    wanted = pl.DataFrame({"gram": [" ".join(spoken(tag)) for tag in tags], "tag": range(len(tags))})
    words = words_of(pl.Series(list(texts), dtype=pl.String))
    found = torch.zeros(len(texts), len(tags), dtype=torch.bool)
    for size in range(1, LONGEST + 1):
        pairs = grams_of(words, size).join(wanted, on="gram")
        found[pairs["row"].to_list(), pairs["tag"].to_list()] = True
    return found


def two_text_losses(
    images: torch.Tensor, texts: torch.Tensor, positives: torch.Tensor, hidden: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums over positives of -log p(text | image) and of -log p(image | text).

    images: logits [n, t] of texts for each image.
    texts: logits [t, n] of images for each text.
    positives: 1 where a text is one of the image, else 0, [n, t].
    hidden: which pairs are left out of the denominators, bool [n, t], none of them positive.
    """
    hidden = torch.zeros_like(positives, dtype=torch.bool) if hidden is None else hidden
    sums = []
    for logits, wanted, left_out in ((images, positives, hidden), (texts, positives.T, hidden.T)):
        likelihoods = log_softmax(logits.masked_fill(left_out, -torch.inf), 1)
        sums.append(-likelihoods.masked_fill(wanted == 0, 0).sum())
    return sums[0], sums[1]


def _columns(owners: torch.Tensor, count: int) -> torch.Tensor:
    """Return 1 in column k where row i is `owners[k]`, else 0, [count, u]."""
    return (torch.arange(count, device=owners.device)[:, None] == owners).float()


def _equal(batch: Batch, texts: Sequence[str], owners: torch.Tensor) -> torch.Tensor:
    """Return bool [n, n + u], true where a text equals one of the image's, or is of an equal image."""
    seen: dict[str, int] = {}
    keys = torch.tensor([seen.setdefault(" ".join(text.lower().split()), len(seen)) for text in texts])  # [n + u]
    own = torch.full((len(batch), 2), -1)
    own[:, 0], own[owners, 1] = keys[: len(batch)], keys[len(batch) :]
    of_images = batch.contents[torch.cat([torch.arange(len(batch)), owners])]  # [n + u]
    return (own[:, :, None] == keys).any(1) | (batch.contents[:, None] == of_images)
