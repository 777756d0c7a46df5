import math

import numpy as np
import pytest
import torch

from inputs.folders import FEATURES, needs_features
from inputs.regimes import REGIMES, drawn
from inputs.supports import unit
from rag_clip.classifiers.likelihoods import HeldEvidence, evidence_of, likelihood_weight, solve
from rag_clip.data import Features, LabelSet
from rag_clip.refinement import batch, sampling
from rag_clip.refinement.batch import FOLDS, Refined, _as_sure, _sureness, concentration_of, refine
from rag_clip.refinement.sampling import row_hashes, sample_images

SCALE = 100.0


def toy(images: int = 120, classes: int = 5, width: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw texts, images beside them and away from them all, and logits, in float64."""
    draw = torch.Generator().manual_seed(1)
    texts = unit(torch.randn(classes, width, generator=draw, dtype=torch.float64))
    truth = torch.randint(classes, (images,), generator=draw)
    noise = 0.4 * torch.randn(images, width, generator=draw, dtype=torch.float64)
    features = unit(texts[truth] + noise + 1).half().double()  # as they are kept: hashes see no finer digits
    return 20 * features @ texts.T, features, texts


class Given:
    """A classifier of images that bring their logits along."""

    labels = LabelSet(("a", "b", "c", "d", "e"))

    def __call__(self, features: Features) -> torch.Tensor:
        return features.others["logits"]


def refinement(
    logits: torch.Tensor, features: torch.Tensor, texts: torch.Tensor, held: HeldEvidence | None = None
) -> Refined:
    return refine(Given(), Features(features, others={"logits": logits}), texts, held=held)


def refined(logits: torch.Tensor, features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    return logits + refinement(logits, features, texts).added(Features(features))


def by_the_equations(logits: np.ndarray, x: np.ndarray, texts: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Refine as the module's docstring says, an image and a class at a time where that is readable, in NumPy."""
    c = logits.shape[1]

    def softmax(rows: np.ndarray) -> np.ndarray:
        powers = np.exp(rows - rows.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))

    z, result = softmax(logits), logits
    for _ in range(6):
        gamma = 1 + (z * np.log(z)).sum(1) / math.log(c)
        result = logits.copy()
        for fold in range(FOLDS):
            other, rows = folds != fold, folds == fold
            share = gamma[other, None] * z[other]
            counts, sums, squares = share.sum(0), share.T @ x[other], share.sum(1) @ x[other] ** 2
            total = counts.sum()
            gap = sum(counts[k] * (sums[k] / counts[k] - texts[k]) for k in range(c)) / total
            means = np.stack([(sums[k] + texts[k] + gap) / (counts[k] + 1) for k in range(c)])
            tau = squares / total - (sums.sum(0) / total) ** 2
            spread = squares + c * (tau + tau.mean()) / 2
            for k in range(c):
                spread += -2 * means[k] * sums[k] + counts[k] * means[k] ** 2 + (texts[k] + gap - means[k]) ** 2
            variance = spread / (total + c)
            variance += 0.1 * variance.mean()
            likelihood = np.stack([x[rows] @ (m / variance) - 0.5 * (m**2 / variance).sum() for m in means], axis=1)
            likelihood -= likelihood.mean(1, keepdims=True)
            seen = z[other].sum(0)
            rho = concentration_of(torch.from_numpy(seen))
            prior = 0.5 / (1 + rho) * np.log(c * (seen + rho) / (seen.sum() + c * rho))
            result[rows] += total / (total + 2 * c) / 50 * likelihood + prior
        z = softmax(result)
    return result


def test_equals_the_equations_in_float64() -> None:
    logits, features, texts = toy()
    folds = (row_hashes(features) % FOLDS).numpy()
    expected = by_the_equations(logits.numpy(), features.numpy(), texts.numpy(), folds)
    torch.testing.assert_close(refined(logits, features, texts), torch.from_numpy(expected), rtol=1e-10, atol=1e-10)


def test_no_image_is_its_own_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "ROUNDS", 1)
    logits, features, texts = toy()
    first = refinement(logits, features, texts)
    rows = (row_hashes(features) % FOLDS == 0).nonzero()[:, 0]
    changed = logits.clone()
    changed[rows] = changed[rows].flip(1)
    second = refinement(changed, features, texts)
    torch.testing.assert_close(first.own.weights[0], second.own.weights[0], rtol=1e-9, atol=1e-9)
    assert (first.own.weights[1] - second.own.weights[1]).abs().max() > 1e-3


def test_nothing_depends_on_how_many_images_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = refinement(*toy())
    monkeypatch.setattr(batch, "BLOCK_VALUES", 35)
    again = refinement(*toy())
    torch.testing.assert_close(again.own.weights, found.own.weights, rtol=1e-10, atol=1e-10)
    assert again.facts.images == 120
    assert (again.facts.changed, again.facts.predicted) == (found.facts.changed, found.facts.predicted)


def test_each_image_is_hashed_once_for_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    images = toy()[1]
    hashed: list[int] = []

    def counting(rows: torch.Tensor) -> torch.Tensor:
        hashed.append(len(rows))
        return row_hashes(rows)

    monkeypatch.setattr(sampling, "row_hashes", counting)
    sample_images((Features(rows) for rows in images.split(7)), 10)
    assert sum(hashed) == len(images)


def test_a_sample_is_the_same_whatever_the_order_and_the_parts() -> None:
    images = toy()[1]
    whole = sample_images([Features(images, others={"twice": 2 * images})], 20)
    order = torch.randperm(len(images))
    parts = [Features(rows, others={"twice": 2 * rows}) for rows in images[order].split(17)]
    found = sample_images(parts, 20)
    assert torch.equal(row_hashes(images).sort().values[:20], row_hashes(found.pooled if found else images))
    assert whole is not None and found is not None  # noqa: PT018
    assert torch.equal(found.pooled, whole.pooled)
    assert torch.equal(found.others["twice"], 2 * whole.pooled)
    assert sample_images([], 20) is None


def test_images_and_classes_may_come_in_any_order() -> None:
    logits, features, texts = toy()
    found = refined(logits, features, texts)
    rows, classes = torch.randperm(len(features)), torch.randperm(len(texts))
    moved = refined(logits[rows][:, classes], features[rows], texts[classes])
    torch.testing.assert_close(moved, found[rows][:, classes], rtol=1e-11, atol=1e-11)


def test_without_likelihoods_and_prior_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "likelihood_weight", lambda evidence: 0.0)
    monkeypatch.setattr(batch, "prior", lambda seen, concentration: torch.zeros_like(seen))
    logits, features, texts = toy()
    assert torch.equal(refined(logits, features, texts), logits)


def test_a_small_file_is_left_alone_and_a_larger_one_is_refined_little_by_little() -> None:
    logits, features, texts = toy()
    sizes = [refinement(logits[:n], features[:n], texts).own.weights.abs().max() for n in (1, 16, 17, 24, 32)]
    assert sizes[:2] == [0, 0]
    assert 0 < sizes[2] < sizes[3] < sizes[4]


def test_evidence_that_a_classifier_holds_is_used_together_with_that_of_the_images() -> None:
    logits, features, texts = toy()
    known = evidence_of(features[50:], torch.nn.functional.one_hot(logits[50:].argmax(1), 5).double())
    solved = solve(known, texts)
    added = features @ (solved.weights - solved.weights.mean(0)).T + solved.biases - solved.biases.mean()

    class Holding(Given):
        def __call__(self, features: Features) -> torch.Tensor:
            return features.others["holding"]

    def both(rows: slice, held: HeldEvidence | None) -> Refined:
        others = {"logits": logits[rows], "holding": logits[rows] + likelihood_weight(known) * added[rows]}
        return refine(Holding(), Features(features[rows], others=others), texts, held=held)

    held = HeldEvidence(known, Given())
    none = both(slice(0), held)
    torch.testing.assert_close(none.added(Features(features)), likelihood_weight(known) * added)
    whole = both(slice(None), held)
    alone = refinement(logits, features, texts)
    assert whole.facts.weight > alone.facts.weight
    assert torch.equal(whole(Features(features, others={"logits": logits})), logits + whole.added(Features(features)))
    nothing = both(slice(None), HeldEvidence(0 * known, Given()))
    torch.testing.assert_close(nothing.own.weights, alone.own.weights)


def test_one_class_and_one_image_many_times_keep_what_texts_say() -> None:
    logits, features, texts = toy()
    assert torch.equal(refined(logits[:, :1], features, texts[:1]), logits[:, :1])
    again = [features[[7]].repeat(64, 1), logits[[7]].repeat(64, 1)]
    found = refined(again[1], again[0], texts)
    assert torch.isfinite(found).all()
    assert (found.argmax(1) == logits[7].argmax()).all()


def test_concentration_is_high_for_even_counts_and_low_for_few_classes() -> None:
    assert concentration_of(torch.full((50,), 20.0)) >= 100
    few = torch.zeros(50)
    few[:3] = 300
    assert concentration_of(few) <= 0.05


@needs_features
@pytest.mark.parametrize("model", ["CLIP_ViTB32", "CLIP_ViTL14", "RemoteCLIP_ViTB32", "GeoRSCLIP_ViTL14"])
def test_no_kind_of_batch_gets_worse_and_whole_files_gain_on_real_features(model: str) -> None:
    data = np.load(FEATURES / f"whurs19_{model}.npz")
    images, texts = (unit(torch.from_numpy(rows.astype(np.float32))) for rows in (data["image"], data["text"][-1]))
    labels, logits = torch.from_numpy(data["label"]), SCALE * images @ texts.T
    alone = (logits.argmax(1) == labels).float()
    for regime in REGIMES:
        gains = []
        for rows in drawn(labels, regime):
            right = (refined(logits[rows], images[rows], texts).argmax(1) == labels[rows]).float()
            gains.append(float(right.mean() - alone[rows].mean()))
        assert np.mean(gains) >= -0.003, regime
        if regime == "all" and alone.mean() < 0.9:
            assert np.mean(gains) > 0.08
    found = refined(logits, images, texts)
    assert calibration_error(found.softmax(1), labels) < calibration_error(logits.softmax(1), labels)


def calibration_error(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the expected calibration error in fifteen bins."""
    score, label = probabilities.max(1)
    bins = (score * 15).ceil().clamp(1, 15).long()
    right = (label == labels).float()
    gaps = [(score[bins == bin].sum() - right[bins == bin].sum()).abs() for bin in range(1, 16)]
    return float(torch.stack(gaps).sum() / len(labels))


def with_second(other: torch.Tensor) -> tuple[Features, torch.Tensor]:
    logits, features, texts = toy(len(other))
    return Features(features, others={"logits": logits, "second": unit(other)}), texts


def test_a_further_encoder_of_constant_vectors_changes_nothing() -> None:
    images, texts = with_second(torch.ones(120, 3, dtype=torch.float64))
    plain, beside = refine(Given(), images, texts), refine(Given(), images, texts, further=["second"])
    torch.testing.assert_close(beside(images), plain(images), atol=1e-6, rtol=0)
    assert not plain.others


def test_a_further_encoder_that_tells_classes_apart_mends_what_the_first_cannot() -> None:
    draw = torch.Generator().manual_seed(1)
    torch.randn(5, 12, generator=draw, dtype=torch.float64)
    truth = torch.randint(5, (1500,), generator=draw)  # as `toy` draws them
    noise = 0.3 * torch.randn(1500, 5, generator=draw, dtype=torch.float64)
    images, texts = with_second(torch.eye(5, dtype=torch.float64)[truth] + noise)
    plain, beside = refine(Given(), images, texts), refine(Given(), images, texts, further=["second"])
    right = [int((each(images).argmax(1) == truth).sum()) for each in (plain, beside)]
    assert right[1] > right[0] + 10
    order = torch.randperm(1500, generator=draw)
    shuffled = refine(Given(), sampling.take_images(images, order), texts, further=["second"])
    torch.testing.assert_close(shuffled.others["second"].weights, beside.others["second"].weights, atol=1e-6, rtol=1e-6)


def test_no_image_is_evidence_of_what_a_further_encoder_adds_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "ROUNDS", 1)
    other = torch.randn(120, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    images, texts = with_second(other)
    changed = images.others["logits"].clone()
    inside = row_hashes(images.pooled) % FOLDS == 0
    changed[inside] = changed[inside].flip(1)
    without = Features(images.pooled, others={**images.others, "logits": changed})
    first, second = (refine(Given(), each, texts, further=["second"]).others["second"] for each in (images, without))
    torch.testing.assert_close(first.weights[0], second.weights[0], rtol=1e-9, atol=1e-9)
    assert (first.weights[1] - second.weights[1]).abs().max() > 1e-3


def test_the_factor_of_scores_makes_them_as_sure_as_asked() -> None:
    scores = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for target in (0.3, 0.6, 0.95):
        assert _sureness(_as_sure(scores, target) * scores) == pytest.approx(target, abs=1e-6)
    assert _as_sure(scores[:0], 0.5) == 0
