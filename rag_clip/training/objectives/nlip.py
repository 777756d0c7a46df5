"""NLIP: pairs that are probably wrong pull less, and get a written caption (Huang et al., 2023, arXiv 2212.07086).

Harmonisation. Before an epoch the probability e_i that caption i is wrong is estimated from the losses of the pairs;

    L = -1/(2n) sum_ij T_ij (lsm(Z)_ij + lsm(Z')_ij)      T_ii = 1 - w_i, T_ij = w_i / (n - 1), w_i = g e_i, g = 0.5

Completion, if its weight is above 0. A small decoder (`training/captioner.py`) learns, beside L, the captions with
e_i < 1/2 from patch tokens and the k phrases of the corpus nearest to the image. From epoch `complete_after` on, its
caption replaces caption i in an epoch with probability e_i; a pair with a written caption has w_i = 0.

The paper takes e from two Gaussians fitted to the losses, which finds noise in every corpus; here it is the rule of
`corpus/noise.py`, which compares losses with those of mismatched pairs. Equal captions and images are no negatives,
and w_i is spread over the others alone. Phrases are scored by the encoder as it stands before the epoch, not by a
frozen one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch import nn
from torch.nn.functional import log_softmax

from rag_clip.corpus.noise import mismatched_losses, noise_probability, pair_losses
from rag_clip.corpus.phrases import frequent_phrases
from rag_clip.training.batches import Batch
from rag_clip.training.captioner import END, Captioner, frequent_words
from rag_clip.training.contrast import info_nce, mask, same_pairs
from rag_clip.training.episode import evaluating, whole_batches
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers


@dataclass(frozen=True, slots=True)
class Nlip:
    """Settings.

    gamma: g, the share of the probability of noise that is taken from a pair; 0, without completion, is CLIP.
    warm_up: epochs without an estimate, at least 1 for towers that start anew.
    batch, shuffles: pairs per batch of the estimate, at most those of an epoch, and how often they are shuffled.
    episode: images of an epoch, at most all; the estimate needs all of them encoded before it.
    completion: weight of the decoder's loss; 0 is without a decoder, 1 is the paper's.
    complete_after: epochs before captions are replaced.
    phrases, nearest: phrases counted from the captions, and how many of them the decoder gets (k).
    words, width, layers: words of the decoder's vocabulary, its width and layers.
    mask_equal: as in CLIP.

    Raises ValueError for a gamma outside [0, 1] and a completion below 0.
    """

    gamma: float = 0.5
    warm_up: int = 1
    batch: int = 1024
    shuffles: int = 3
    episode: int = 50_000
    completion: float = 0.0
    complete_after: int = 3
    phrases: int = 500
    nearest: int = 4
    words: int = 10_000
    width: int = 128
    layers: int = 2
    mask_equal: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1 or not self.completion >= 0:
            raise ValueError(
                f"gamma is {self.gamma} and the weight of completion {self.completion}; give a gamma of 0 to 1, and "
                "a weight of at least 0"
            )

    @property
    def needs(self) -> Needs:
        """Pairs, and patch tokens for the decoder."""
        return Needs(patches=bool(self.completion), episode=self.episode)

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        return NlipLoss(towers, self, setting)


class NlipLoss(nn.Module):
    """The loss of a batch of pairs.

    noise: e of each caption, float32, the captions of the first image first; 0 before it is estimated.
    """

    noise: torch.Tensor
    fitting: torch.Tensor  # [N, k] numbers of the nearest phrases
    phrase_vectors: torch.Tensor  # [phrases, d]
    written: torch.Tensor  # [N, length] words of written captions; END alone where there is none
    drawn: torch.Tensor  # [N] in [0, 1): captions with more noise are replaced in this epoch

    def __init__(self, towers: Towers, settings: Nlip, setting: Setting) -> None:
        super().__init__()
        self.towers, self.settings, self.setting = towers, settings, setting
        captions = setting.examples.captions
        self.starts = np.cumsum([0, *(len(texts) for texts in captions)])
        self.register_buffer("noise", torch.zeros(int(self.starts[-1])))
        self.captioner: Captioner | None = None
        if settings.completion:
            texts = [text for choice in captions for text in choice]
            self.phrases = list(frequent_phrases([pl.Series(texts)], most=settings.phrases))
            if not self.phrases:
                raise ValueError("the captions have no phrase to describe an image by; leave completion at 0")
            self.captioner = Captioner(
                frequent_words(texts, most=settings.words),
                patch_width=towers.backbone_width,
                phrase_width=towers.encoder.dim,
                width=settings.width,
                layers=settings.layers,
            )
            nearest = min(settings.nearest, len(self.phrases))
            self.register_buffer("phrase_vectors", torch.zeros(len(self.phrases), towers.encoder.dim))
            self.register_buffer("fitting", torch.zeros(len(captions), nearest, dtype=torch.int64))
            self.register_buffer("written", torch.full((len(captions), self.captioner.length), END))
            self.register_buffer("drawn", torch.ones(len(captions)))

    @property
    def facts(self) -> dict[str, float]:
        """The mean probability of noise, and the share of images with a written caption."""
        facts = {"mean probability of noise": float(self.noise.mean())}
        if self.captioner is not None:
            facts["share of written captions"] = float((self.written != END).any(1).float().mean())
        return facts

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        noise = self.noise[self._captions_of(batch)]  # [n]
        if self.captioner is None:
            return self._harmonised(batch, self.towers.embed_images(batch), noise)
        images, patches = self.towers.embed_whole(batch)
        phrases = self.phrase_vectors[self.fitting[batch.rows]]  # [n, k, d]
        told = self.captioner.loss(patches, phrases, batch.texts, (noise < 0.5).float())
        completed, noise = self._complete(batch, noise)
        return self._harmonised(completed, images, noise) + self.settings.completion * told

    def _harmonised(self, batch: Batch, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        logits = self.towers.scale * images @ self.towers.embed_texts(batch.texts).T  # [n, n]
        same = same_pairs(batch) if self.settings.mask_equal else None
        return harmonised(logits, self.settings.gamma * noise.to(logits.device), same)

    def _captions_of(self, batch: Batch) -> torch.Tensor:
        """Return the number of each text among all captions, int64 [n]."""
        captions = self.setting.examples.captions
        places = [
            captions[row].index(text) + int(self.starts[row])
            for row, text in zip(batch.rows.tolist(), batch.texts, strict=True)
        ]
        return torch.tensor(places, device=self.noise.device)

    def _complete(self, batch: Batch, noise: torch.Tensor) -> tuple[Batch, torch.Tensor]:
        """Return the batch with written captions, and the noise of its captions, 0 for written ones."""
        assert self.captioner is not None
        texts = list(batch.texts)
        for place in (noise > self.drawn[batch.rows]).nonzero().flatten().tolist():
            texts[place] = self.captioner.text(self.written[batch.rows[place]]) or texts[place]
        kept = [new == old for new, old in zip(texts, batch.texts, strict=True)]
        return replace(batch, texts=tuple(texts)), noise * torch.tensor(kept, device=noise.device)

    def begin_epoch(self, epoch: int, rows: torch.Tensor) -> None:
        """Estimate the noise of the captions of `rows`, and write captions for images, by the towers as they stand."""
        with evaluating(self.towers, self):
            if epoch >= self.settings.warm_up and len(rows) > 1:
                self._estimate(epoch, rows)
            if self.captioner is not None:
                self.phrase_vectors.copy_(self.towers.embed_texts(self.phrases))
                self._describe(epoch, rows)

    def _estimate(self, epoch: int, rows: torch.Tensor) -> None:
        captions = self.setting.examples.captions
        counts = torch.tensor([len(captions[row]) for row in rows.tolist()])
        scale, batch = float(self.towers.scale), self.settings.batch
        losses, mismatched, places = [], [], []
        images = torch.cat([self.towers.embed_images(part) for part in whole_batches(self.setting, rows)])  # [m, d]
        for turn in range(int(counts.max())):
            texts = self.towers.encoder.encode_text([captions[row][turn % len(captions[row])] for row in rows.tolist()])
            there = (counts > turn).numpy()
            losses.append(
                pair_losses(images, texts, scale=scale, batch=batch, shuffles=self.settings.shuffles, seed=epoch)[there]
            )
            mismatched.append(mismatched_losses(images, texts, scale=scale, batch=batch, seed=epoch))
            places.append(self.starts[rows.numpy()][there] + turn)
        found = noise_probability(np.concatenate(losses), np.concatenate(mismatched))
        self.noise[torch.from_numpy(np.concatenate(places))] = torch.from_numpy(found).to(self.noise)

    def _describe(self, epoch: int, rows: torch.Tensor) -> None:
        """Find the phrases of each image, draw which captions are replaced, and write captions for their images."""
        assert self.captioner is not None
        drawn = np.random.default_rng([self.setting.batches.seed, 5, epoch]).random(len(self.drawn), np.float32)
        self.drawn.copy_(torch.from_numpy(drawn))
        replaced = torch.from_numpy(np.maximum.reduceat(self.noise.cpu().numpy(), self.starts[:-1]) > drawn)
        self.written.fill_(END)
        for part in whole_batches(self.setting, rows):
            images, patches = self.towers.embed_whole(part)
            nearest = (images @ self.phrase_vectors.T).topk(self.fitting.shape[1]).indices  # [n, k]
            self.fitting[part.rows] = nearest
            chosen = replaced[part.rows]
            if epoch >= self.settings.complete_after and chosen.any():
                place = chosen.to(nearest.device)
                texts = self.captioner.write(patches[place], self.phrase_vectors[nearest[place]])
                self.written[part.rows[chosen]] = texts


def harmonised(logits: torch.Tensor, weights: torch.Tensor, same: torch.Tensor | None = None) -> torch.Tensor:
    """Return the harmonised loss of logits [n, n], pairs on the diagonal, by the weights w of the pairs, [n].

    Pairs that are the `same`, bool [n, n], are no negatives; w is spread over the others.
    """
    if not weights.any():
        return info_nce(logits, same)
    total = torch.zeros((), dtype=logits.dtype, device=logits.device)
    masked = mask(logits, same)
    for direction in (masked, masked.T):
        likelihoods = log_softmax(direction, dim=1)
        own = likelihoods.diagonal()
        seen = ~likelihoods.isneginf() & ~torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        rivals = seen.sum(1)
        spread = likelihoods.masked_fill(~seen, 0).sum(1) / rivals.clamp(min=1)
        share = weights.to(logits.dtype) * (rivals > 0)
        total = total - ((1 - share) * own + share * spread).mean() / 2
    return total


def decoder_of(loss: nn.Module | None) -> Captioner | None:
    """Return the decoder of a loss, if it has one."""
    return loss.captioner if isinstance(loss, NlipLoss) else None


def write_captions(loss: nn.Module | None, rows: torch.Tensor) -> pa.Table:
    """Return the captions that the decoder of a run, `adapt(...).loss`, writes for its images `rows`, int64 [m].

    The table has columns `row` (int64), `caption` (written), `references` (all captions of the image) and `noise`
    (float32, the probability that the first of them is wrong, as last estimated). Raises ValueError for a loss without
    completion.
    """
    captioner = decoder_of(loss)
    if captioner is None or not isinstance(loss, NlipLoss):
        raise ValueError("this run had no decoder; give nlip a completion above 0")
    captions = []
    with evaluating(loss.towers, loss):
        for part in whole_batches(loss.setting, rows):
            images, patches = loss.towers.embed_whole(part)
            nearest = (images @ loss.phrase_vectors.T).topk(loss.fitting.shape[1]).indices
            written = captioner.write(patches, loss.phrase_vectors[nearest])
            captions += [captioner.text(numbers) for numbers in written]
    noise = loss.noise[torch.from_numpy(loss.starts[:-1])[rows].to(loss.noise.device)]
    return pa.table(
        {
            "row": pa.array(rows.tolist(), pa.int64()),
            "caption": captions,
            "references": [list(loss.setting.examples.captions[row]) for row in rows.tolist()],
            "noise": pa.array(noise.tolist(), pa.float32()),
        }
    )
