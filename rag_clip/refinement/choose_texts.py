"""The choice among several texts of each class by the unlabelled images of a file; no label is read.

The rule is ours. Texts that fit the images divide them into tight clusters; texts that mean nothing to the encoder,
or something else, do not. With n unit images x_i [d], unit texts T_k of c classes, scale s, and J = 5 folds
by a hash of the image, the images outside fold f make one Gaussian a class, and those inside judge it:

    z_i   = softmax_k(s x_i T_k)                       n_k = sum_i z_ik        S_k = sum_i z_ik x_i       N = sum_k n_k
    m_k   = (S_k + 2 mean x) / (n_k + 2)               pi_k = n_k / N
    var   = mean x^2 - sum_k (2 m_k S_k - n_k m_k^2) / N                       of each dimension, shared by the classes
    score = sum_i in f  log sum_k pi_k N(x_i; m_k, var)                        in nats, summed over the folds

The search starts from the candidate with the best score, takes the classes in turn, and keeps a change of a class's
text that raises the score by more than `MARGIN`. Dimensions of features are not independent, so that a Gaussian is
about 50 times too sure of itself: scores are reported in nats divided by 50, and the margin is 4 of those.

A trial changes one column of z, so only the images that it moves, and the Gaussians of the classes that gain or lose
such images, are computed again; `var`, in which the score is flat, is kept until the round ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import one_hot

from rag_clip.refinement.sampling import row_hashes

FOLDS = 5
FEWEST = 16
PRIOR_IMAGES = 2.0
OVERCONFIDENCE = 50.0
MARGIN = 4 * OVERCONFIDENCE
ROUNDS = 2
LEAST_VARIANCE = 0.1
LEAST_MOVE = 1e-3  # of an image's share of a class
LEAST_CHANGE = 0.02  # of the images of a class
FAR = 20.0  # nats below an image's log-likelihood


@dataclass(frozen=True, slots=True, eq=False)
class ChosenTexts:
    """The choice of `choose_texts`.

    best: the candidate with the highest score for all classes.
    of_class: the candidate of each class, int64 [c].
    scores: of each candidate alone, the mean over images, in nats divided by 50.
    gains: by how much the change of a class raised the score, summed over images, in the same unit, [c].
    images: how many images were used.
    """

    best: int
    of_class: torch.Tensor
    scores: tuple[float, ...]
    gains: torch.Tensor
    images: int


@torch.no_grad()
def choose_texts(features: torch.Tensor, candidates: Sequence[torch.Tensor], *, scale: float) -> ChosenTexts:
    """Choose a text for each class among several, by the images alone.

    features: unit rows [n, d] of images, a sample of a few thousand.
    candidates: class weights [c, d] of each set of texts, in unit rows.
    scale: the factor of cosines that the encoder was trained with.

    With fewer than 16 images, or only equal ones, the first candidate is chosen. Raises ValueError for no candidate,
    and for candidates of different shapes.
    """
    if not candidates or len({tuple(weights.shape) for weights in candidates}) > 1:
        shapes = ", ".join(str(tuple(weights.shape)) for weights in candidates)
        raise ValueError(f"the candidates have the shapes [{shapes}]; give at least one, all of the same [c, d]")
    features = features.float()
    folds = row_hashes(features) % FOLDS
    logits = [scale * features @ weights.to(features).T for weights in candidates]  # [n, c] each
    if len(features) < FEWEST or int(folds.bincount().max()) == len(features):
        nothing = torch.zeros(len(candidates[0]))
        return ChosenTexts(0, nothing.long(), (0.0,) * len(candidates), nothing.double(), len(features))
    scores = [_Mixture(features, folds, each).score for each in logits]
    best = max(range(len(scores)), key=scores.__getitem__)
    mixture = _Mixture(features, folds, logits[best])
    of_class = torch.full((len(candidates[0]),), best)
    gains = torch.zeros(len(of_class), dtype=torch.float64)
    for _ in range(ROUNDS):
        before = of_class.clone()
        for row in mixture.images.argsort(descending=True, stable=True).tolist():
            for number, other in enumerate(logits):
                if torch.equal(candidates[number][row], candidates[int(of_class[row])][row]):
                    continue
                trial = mixture.attempt(row, other[:, row])
                if trial and trial.gain > MARGIN:
                    mixture.keep(trial)
                    gains[row] += trial.gain / OVERCONFIDENCE
                    of_class[row] = number
        if torch.equal(before, of_class):
            break
        mixture.fit()
    count = len(features)
    return ChosenTexts(best, of_class, tuple(score / count / OVERCONFIDENCE for score in scores), gains, count)


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A class with the logits of another text, and what that changes.

    row, logit: the class, and its logits [n].
    moved, shares: the images whose shares of the classes change, [a], and their shares after it, [a, c].
    classes: those that gain or lose images, [b].
    counts, sums: of the images outside each fold in these classes, [J, b] and [J, b, d].
    densities: of all images in these classes, [n, b].
    gain: how much the score rises.
    """

    row: int
    logit: torch.Tensor
    moved: torch.Tensor
    shares: torch.Tensor
    classes: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    densities: torch.Tensor
    gain: float


class _Mixture:
    """Gaussians of the classes outside each fold, and the log-likelihood of the images inside."""

    def __init__(self, features: torch.Tensor, folds: torch.Tensor, logits: torch.Tensor) -> None:
        self.features, self.folds, self.logits = features, folds, logits.clone()
        self.rows = [(folds == fold).nonzero()[:, 0] for fold in range(FOLDS)]
        self.mean = features.mean(0)
        self.fit()

    def fit(self) -> None:
        """Compute everything from `logits` [n, c]."""
        x = self.features
        self.total = self.logits.logsumexp(1)  # [n]
        self.shares = (self.logits - self.total[:, None]).exp()  # [n, c]
        self.images = self.shares.sum(0)  # [c]
        inside = [(self.shares[rows].sum(0), self.shares[rows].T @ x[rows]) for rows in self.rows]
        counts = torch.stack([count for count, _ in inside])  # [J, c]
        sums = torch.stack([summed for _, summed in inside])  # [J, c, d]
        self.counts, self.sums = counts.sum(0) - counts, sums.sum(0) - sums  # of the images outside the fold
        self.number = self.counts.sum(1)  # [J]
        means = self._means(self.counts, self.sums)
        explained = (2 * means * self.sums - self.counts[..., None] * means**2).sum(1)  # [J, d]
        squares = torch.stack([(x[rows] ** 2).sum(0) for rows in self.rows])  # [J, d]
        variance = (squares.sum(0) - squares - explained) / self.number[:, None]
        least = LEAST_VARIANCE * variance.mean(1, keepdim=True)
        self.variance = torch.maximum(variance, least).clamp(min=torch.finfo(x.dtype).tiny)
        self.densities = self._densities(self.counts, means)
        self.likelihood = self.densities.logsumexp(1)
        self.score = float(self.likelihood.double().sum()) + self._common()

    def _means(self, counts: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        return (sums + PRIOR_IMAGES * self.mean) / (counts + PRIOR_IMAGES)[..., None]

    def _densities(self, counts: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        """Return log pi_k N(x_i; m_k, var) of all images, without the terms that all classes share, [n, b]."""
        densities = torch.empty(len(self.features), counts.shape[1], device=counts.device)
        tiny = torch.finfo(counts.dtype).tiny
        for fold, rows in enumerate(self.rows):
            scaled = means[fold] / self.variance[fold]  # [b, d]
            offsets = (counts[fold] / self.number[fold]).clamp(min=tiny).log() - 0.5 * (means[fold] * scaled).sum(1)
            densities[rows] = self.features[rows] @ scaled.T + offsets
        return densities

    def _common(self) -> float:
        shared = 0.0
        for variance, rows in zip(self.variance, self.rows, strict=True):
            spread = (self.features[rows] ** 2).sum(0) @ (1 / variance)
            shared -= 0.5 * float(spread + len(rows) * variance.log().sum())
        return shared

    def attempt(self, row: int, logit: torch.Tensor) -> _Trial | None:
        """Return the change of the mixture if class `row` has these logits [n]; None if no image moves."""
        odds = (logit - self.total).exp()
        left = (1 - self.shares[:, row]).clamp(min=torch.finfo(odds.dtype).eps)
        share = odds / (left + odds)  # [n]
        moved = ((share - self.shares[:, row]).abs() > LEAST_MOVE).nonzero()[:, 0]
        if not len(moved):
            return None
        before = self.shares[moved]  # [a, c]
        after = before * ((1 - share[moved]) / left[moved])[:, None]
        after[:, row] = share[moved]
        change = after - before
        classes = (change.abs().sum(0) > LEAST_CHANGE * (self.images + 1)).nonzero()[:, 0]
        change = change[:, classes]
        placed = one_hot(self.folds[moved], FOLDS).T.to(change)  # [J, a]
        counts = placed @ change  # [J, b]
        sums = torch.stack([(change * fold[:, None]).T @ self.features[moved] for fold in placed])  # [J, b, d]
        counts = (self.counts[:, classes] + counts.sum(0) - counts).clamp(min=0)
        sums = self.sums[:, classes] + sums.sum(0) - sums
        densities = self._densities(counts, self._means(counts, sums))
        high = torch.maximum(densities, self.densities[:, classes]).amax(1) if len(classes) else self.likelihood - FAR
        touched = (high > self.likelihood - FAR).nonzero()[:, 0]
        changed = self.densities[touched]
        changed[:, classes] = densities[touched]
        gain = float((changed.logsumexp(1) - self.likelihood[touched]).double().sum())
        return _Trial(row, logit, moved, after, classes, counts, sums, densities, gain)

    def keep(self, trial: _Trial) -> None:
        """Apply the change of a trial to all but the variance."""
        self.logits[:, trial.row] = trial.logit
        self.total = self.logits.logsumexp(1)
        self.shares[trial.moved] = trial.shares
        self.images = self.shares.sum(0)
        self.counts[:, trial.classes], self.sums[:, trial.classes] = trial.counts, trial.sums
        self.densities[:, trial.classes] = trial.densities
        self.likelihood = self.densities.logsumexp(1)
