"""ProtoCLIP: towers also predict each other's clusters of an episode (Chen et al., 2023, arXiv 2206.10996).

    L = c InfoNCE + p (P_I + P_T) / 2 + e (E_I + E_T) / 2      c = p = e = 1
    P_I = -mean_i Q_i lsm(s h_I,i C')      Q_i = sm(n(M_a(i)) n(M)' / 0.01)      a, M: clusters of h_T and their means
    C_j = mean of h_I over the images with a(i) = j      h = n(g(x)), g: Linear, batch norm, ReLU, Linear

An episode is an epoch of M images, which are encoded in evaluation mode before it, clustered by k-means of their texts
and of their images, and trained on; P_T is P_I with the sides exchanged. E_I and E_T predict, with hard labels, the
clusters of an external teacher: the start encoder's text embeddings, reduced to 64 axes by their principal components.
s is learned from 1/0.07, at most 100. The heads g are dropped after training. The first episode trains with InfoNCE
alone. In the paper's last episodes the image tower does not move: adapt the result again with it locked.

Clusters without rows are left out of both softmaxes, where the authors' code has a logit of 0. M is normalised in Q, as
the mean of a loose cluster is short and its row of Q would not peak on itself; C is not, so loose clusters pull less.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.functional import log_softmax, nll_loss, normalize

from rag_clip.models.towers import TwoTowers
from rag_clip.training.batches import Batch
from rag_clip.training.contrast import info_nce, same_pairs
from rag_clip.training.episode import evaluating, whole_batches
from rag_clip.training.kmeans import cluster_means, kmeans
from rag_clip.training.objective import Needs, Setting
from rag_clip.training.towers import Towers

MOST_SCALE = 100.0
IMAGE, TEXT, TEACHER = range(3)  # whose clusters they are


@dataclass(frozen=True, slots=True)
class Proto:
    """Settings, with the paper's defaults.

    contrast, prototypes, teacher: c, p and e; 1, 0 and 0 is CLIP.
    episode: M, images of an epoch, at most all.
    share: images per cluster; an episode has M / share clusters, at least 2.
    iterations: of k-means.
    warm_up: episodes of InfoNCE alone.
    temperature: of Q.
    axes: of the teacher's embeddings.
    hidden, width: of the heads.
    mask_equal: as in CLIP.

    Raises ValueError for weights below 0, and for numbers that are not above 0.
    """

    contrast: float = 1.0
    prototypes: float = 1.0
    teacher: float = 1.0
    episode: int = 200_000
    share: int = 10
    iterations: int = 20
    warm_up: int = 1
    temperature: float = 0.01
    axes: int = 64
    hidden: int = 2048
    width: int = 128
    mask_equal: bool = True

    def __post_init__(self) -> None:
        if min(self.contrast, self.prototypes, self.teacher) < 0:
            raise ValueError(f"the weights are {self.contrast}, {self.prototypes} and {self.teacher}; give at least 0")
        if min(self.episode, self.share, self.temperature, self.axes) <= 0:
            raise ValueError(
                f"an episode of {self.episode} images, {self.share} to a cluster, at temperature {self.temperature} "
                f"with {self.axes} axes cannot be clustered; give numbers above 0"
            )

    @property
    def needs(self) -> Needs:
        """Pairs, drawn in episodes."""
        return Needs(episode=self.episode)

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        return ProtoLoss(towers, self, setting)


class ProtoLoss(nn.Module):
    """The loss of a batch of pairs of an episode.

    labels: the clusters of each image of the examples by images, texts and teacher, int64 [3, N].
    means: means of the clusters of images and of texts, each in its own space, unit rows [2, k, width].
    prototypes: means of image and of text features by the clusters of the other side, and of the teacher,
        [2, 2, k, width].
    full: which clusters of images, texts and teacher have rows, bool [3, k]; none before the first are made.
    """

    labels: torch.Tensor
    means: torch.Tensor
    prototypes: torch.Tensor
    full: torch.Tensor

    def __init__(self, towers: Towers, settings: Proto, setting: Setting) -> None:
        super().__init__()
        self.towers, self.settings, self.setting = towers, settings, setting
        self.clustering = settings.prototypes > 0 or settings.teacher > 0
        if not self.clustering:
            return
        rows, width = len(setting.examples), settings.width
        count = max(2, min(settings.episode, rows) // settings.share)
        head = nn.Sequential(
            nn.Linear(towers.encoder.dim, settings.hidden),
            nn.BatchNorm1d(settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, width),
        )
        self.heads = nn.ModuleList([head, copy.deepcopy(head)])  # of images, of texts
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.register_buffer("labels", torch.zeros(3, rows, dtype=torch.int64))
        self.register_buffer("means", torch.zeros(2, count, width))
        self.register_buffer("prototypes", torch.zeros(2, 2, count, width))
        self.register_buffer("full", torch.zeros(3, count, dtype=torch.bool))
        # In a tuple, so that it is not trained.
        self.frozen: tuple[TwoTowers, ...] = (_frozen(towers.encoder),) if settings.teacher else ()

    @property
    def facts(self) -> dict[str, float]:
        """How much the images of a cluster of texts have in common: the mean length of their mean, 0 to 1."""
        if not self.clustering:
            return {}
        lengths = self.prototypes[IMAGE, 0].norm(dim=-1)[self.full[TEXT]]
        return {"coherence of caption clusters": float(lengths.mean()) if len(lengths) else 0.0}

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        images, texts = self.towers.embed_images(batch), self.towers.embed_texts(batch.texts)  # [n, d] each
        same = same_pairs(batch) if self.settings.mask_equal else None
        loss = info_nce(self.towers.scale * images @ texts.T, same)
        if self.settings.contrast != 1:
            loss = self.settings.contrast * loss
        if not self.clustering or not self.full.any():
            return loss
        scale = self._scale()
        for side, rows in ((IMAGE, images), (TEXT, texts)):
            features = normalize(self.heads[side](rows), dim=-1)  # [n, width]
            other, labels = 1 - side, self.labels[:, batch.rows]  # [3, n]
            if self.settings.prototypes:
                logits = scale * features @ self.prototypes[side, 0].T
                targets = soft_targets(
                    self.means[other], labels[other], temperature=self.settings.temperature, full=self.full[other]
                )
                loss = loss + self.settings.prototypes / 2 * predict_clusters(logits, targets, self.full[other])
            if self.settings.teacher:
                logits = (scale * features @ self.prototypes[side, 1].T).masked_fill(~self.full[TEACHER], -torch.inf)
                loss = loss + self.settings.teacher / 2 * nll_loss(log_softmax(logits, 1), labels[TEACHER])
        return loss

    def _scale(self) -> torch.Tensor:
        with torch.no_grad():
            self.log_scale.clamp_(max=float(torch.tensor(MOST_SCALE).log()))
        return self.log_scale.exp()

    def begin_epoch(self, epoch: int, rows: torch.Tensor) -> None:
        """Cluster the images of an episode, by the towers as they stand."""
        if not self.clustering or epoch < self.settings.warm_up:
            return
        with evaluating(self.towers, self):
            found: list[list[torch.Tensor]] = [[], []]
            for part in whole_batches(self.setting, rows):
                sides = self.towers.embed_images(part), self.towers.embed_texts(part.texts)
                for side in (IMAGE, TEXT):
                    found[side].append(normalize(self.heads[side](sides[side]), dim=-1))
            features = [torch.cat(parts) for parts in found]  # [M, width] each
            for side in (IMAGE, TEXT):
                self._cluster(side, features[side], rows, epoch)
                self.means[side] = normalize(self._means(features[side], side, rows), dim=-1)
            if self.settings.teacher:
                self._cluster(TEACHER, self._taught(rows), rows, epoch)
            for side in (IMAGE, TEXT):
                self.prototypes[side, 0] = self._means(features[side], 1 - side, rows)
                self.prototypes[side, 1] = self._means(features[side], TEACHER, rows)

    def _cluster(self, whose: int, features: torch.Tensor, rows: torch.Tensor, epoch: int) -> None:
        seed = 3 * (self.setting.batches.seed + 1000 * epoch) + whose
        nearest = kmeans(features, self.full.shape[1], iterations=self.settings.iterations, seed=seed)
        self.labels[whose, rows] = nearest
        self.full[whose] = torch.bincount(nearest, minlength=self.full.shape[1]) > 0

    def _means(self, features: torch.Tensor, whose: int, rows: torch.Tensor) -> torch.Tensor:
        return cluster_means(features, self.labels[whose, rows], self.full.shape[1])[0]

    def _taught(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the start encoder's embeddings of the captions of `rows` on their principal axes, [M, axes]."""
        texts = [self.setting.examples.captions[row][0] for row in rows.tolist()]
        vectors = self.frozen[0].encode_text(texts)
        vectors = vectors - vectors.mean(0)
        axes: torch.Tensor = torch.linalg.eigh(vectors.T @ vectors).eigenvectors[:, -self.settings.axes :]  # [d, axes]
        return vectors @ axes


def soft_targets(means: torch.Tensor, labels: torch.Tensor, *, temperature: float, full: torch.Tensor) -> torch.Tensor:
    """Return Q [n, k]: how near the cluster of each row, `labels` int64 [n], is to each cluster, by its mean [k, e].

    Clusters that are not `full`, bool [k], have probability 0.
    """
    return (means[labels] @ means.T / temperature).masked_fill(~full, -torch.inf).softmax(1)


def predict_clusters(logits: torch.Tensor, targets: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of logits [n, k] with targets [n, k], over clusters that are `full`, bool [k]."""
    likelihoods = log_softmax(logits.masked_fill(~full, -torch.inf), 1).masked_fill(~full, 0)
    return -(targets * likelihoods).sum(1).mean()


def _frozen(encoder: TwoTowers) -> TwoTowers:
    """Return a copy of the encoder's text side that does not move."""
    return replace(encoder, model=copy.deepcopy(encoder.model).eval().requires_grad_(False))
