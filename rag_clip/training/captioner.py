"""A small decoder that writes captions of images from their patch tokens and the phrases that fit them best.

    L = -mean log p(y_l | y_<l, [phrases ; patch tokens])      words y, by cross-attention to k phrases and p patches

Its vocabulary is that of the captions, word by word, so that it does not depend on the encoder's tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import polars as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rag_clip.corpus.counts.tokens import words_of
from rag_clip.corpus.phrases import joined

END, START, UNKNOWN = range(3)
SPECIAL = 3


class Captioner(nn.Module):
    """The decoder.

    words: its vocabulary; other words are unknown, and never written.
    patch_width, phrase_width: widths of patch tokens (D) and of phrase vectors (d).
    width, layers: of the decoder.
    length: the most words of a caption.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        patch_width: int,
        phrase_width: int,
        width: int = 128,
        layers: int = 2,
        length: int = 24,
    ) -> None:
        super().__init__()
        self.words, self.length = tuple(words), length
        self.numbers = {word: number for number, word in enumerate(self.words, SPECIAL)}
        self.embedding = nn.Embedding(SPECIAL + len(self.words), width)
        nn.init.normal_(self.embedding.weight, std=0.02)  # it is the output layer too
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.patches, self.phrases = nn.Linear(patch_width, width), nn.Linear(phrase_width, width)
        block = nn.TransformerDecoderLayer(
            width, max(1, width // 32), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerDecoder(block, layers, nn.LayerNorm(width))

    def forward(self, patches: torch.Tensor, phrases: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, l, words] of the words that follow each of `numbers`, int64 [n, l].

        patches [n, p, D] and phrases [n, k, d] are what the words describe.
        """
        memory = torch.cat([self.phrases(phrases), self.patches(patches)], 1)  # [n, k + p, width]
        states = self.embedding(numbers) + self.positions[: numbers.shape[1]]  # [n, l, width]
        later = torch.ones(numbers.shape[1], numbers.shape[1], dtype=torch.bool, device=numbers.device).triu(1)
        decoded: torch.Tensor = self.blocks(states, memory, tgt_mask=later) @ self.embedding.weight.T
        return decoded

    def loss(
        self, patches: torch.Tensor, phrases: torch.Tensor, texts: Sequence[str], weights: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean loss per word of the texts of n images; text i counts `weights` [n] times, 0 or more."""
        numbers = self.read(texts).to(patches.device)  # [n, l]
        before = numbers.roll(1, 1)
        before[:, 0] = START
        losses = cross_entropy(self(patches, phrases, before).flatten(0, 1), numbers.flatten(), reduction="none")
        ended = numbers == END
        counted = (ended.cumsum(1) - ended.long()) == 0  # words, and the first end after them
        shares = counted * weights.to(losses)[:, None]  # [n, l]
        return (losses.view_as(shares) * shares).sum() / shares.sum().clamp(min=1)

    @torch.no_grad()
    def write(self, patches: torch.Tensor, phrases: torch.Tensor) -> torch.Tensor:
        """Return the likeliest words, one after the other, as numbers int64 [n, length], END after the last."""
        numbers = torch.full((len(patches), 1), START, device=patches.device)
        ended = torch.zeros(len(patches), dtype=torch.bool, device=patches.device)
        for _ in range(self.length):
            logits = self(patches, phrases, numbers)[:, -1]
            logits[:, [START, UNKNOWN]] = -torch.inf
            chosen = logits.argmax(1).masked_fill(ended, END)
            ended |= chosen == END
            numbers = torch.cat([numbers, chosen[:, None]], 1)
        return numbers[:, 1:]

    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the words of texts as numbers int64 [t, l], filled up with END; longer texts are cut."""
        rows: list[list[int]] = [[] for _ in texts]
        for row, word in words_of(pl.Series(list(texts), dtype=pl.String)).iter_rows():
            rows[row].append(self.numbers.get(word, UNKNOWN))
        longest = min(self.length, 1 + max((len(row) for row in rows), default=0))
        return torch.tensor([(row + [END] * longest)[:longest] for row in rows], dtype=torch.int64)

    def text(self, numbers: torch.Tensor) -> str:
        """Return the text of one row of numbers."""
        words = [self.words[number - SPECIAL] for number in numbers.tolist() if number >= SPECIAL]
        return joined([" ".join(words)])[0]


def frequent_words(texts: Sequence[str], *, most: int) -> tuple[str, ...]:
    """Return the `most` frequent words of texts, the most frequent first, ties in order of spelling."""
    counts = Counter(words_of(pl.Series(list(texts), dtype=pl.String))["gram"].to_list())
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most])
