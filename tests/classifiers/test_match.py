"""Matching: ranks, probabilities and ties, by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from rag_clip.classifiers.match import match
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet


@dataclass(frozen=True)
class Linear:
    """Logits = pooled @ weights.T."""

    labels: LabelSet
    weights: torch.Tensor

    def __call__(self, features: Features) -> torch.Tensor:
        return features.pooled @ self.weights.T.to(features.pooled)


def linear(weights: torch.Tensor) -> Linear:
    return Linear(LabelSet(tuple(f"class {row}" for row in range(len(weights)))), weights)


@dataclass(frozen=True)
class Fixed:
    """The logits given, whatever the features."""

    labels: LabelSet
    logits: torch.Tensor

    def __call__(self, features: Features) -> torch.Tensor:
        return self.logits


def identity(classes: int) -> Linear:
    return linear(torch.eye(classes))


def test_probabilities_and_margin_equal_a_softmax_by_hand():
    matches = match(identity(3), Features(torch.tensor([[0.0, 2.0, 1.0]])), top_k=2)
    total = 1 + 2.718281828**2 + 2.718281828
    assert matches.labels.tolist() == [[1, 2]]
    torch.testing.assert_close(matches.scores, torch.tensor([[2.718281828**2 / total, 2.718281828 / total]]))
    torch.testing.assert_close(matches.margin, matches.scores[:, 0] - matches.scores[:, 1])


def test_ties_are_ranked_in_class_order():
    logits = torch.tensor([[1.0, 3.0, 3.0, 1.0, 1.0, 3.0], [2.0] * 6, [0.0, 1.0, 2.0, 3.0, 4.0, 4.0]])
    matches = match(identity(6), Features(logits), top_k=4)
    assert matches.labels.tolist() == [[1, 2, 5, 0], [0, 1, 2, 3], [4, 5, 3, 2]]


def test_many_ties_equal_a_stable_sort():
    logits = torch.randint(0, 9, (200, 300), generator=torch.Generator().manual_seed(0)).float()
    expected = logits.argsort(dim=1, descending=True, stable=True)[:, :5]
    assert torch.equal(match(identity(300), Features(logits), top_k=5).labels, expected)


def test_ties_are_decided_by_logits_where_probabilities_underflow():
    matches = match(identity(3), Features(torch.tensor([[-500.0, 0.0, -400.0]])), top_k=3)
    assert matches.labels.tolist() == [[1, 2, 0]]
    assert matches.scores.tolist() == [[1.0, 0.0, 0.0]]


def test_top_k_is_lowered_to_the_number_of_classes():
    matches = match(identity(2), Features(torch.tensor([[0.0, 1.0]])), top_k=5)
    assert matches.labels.tolist() == [[1, 0]]


def test_one_class_has_probability_and_margin_one():
    matches = match(identity(1), Features(torch.tensor([[0.3]])), top_k=1)
    assert (matches.labels.tolist(), matches.scores.tolist(), matches.margin.tolist()) == ([[0]], [[1.0]], [1.0])


def test_top_one_still_has_a_margin():
    matches = match(identity(2), Features(torch.tensor([[0.0, 0.0]])), top_k=1)
    assert (matches.labels.tolist(), matches.margin.tolist()) == ([[0]], [0.0])


def test_no_rows_give_no_matches():
    assert match(identity(3), Features(torch.zeros(0, 3)), top_k=2).labels.shape == (0, 2)


def test_the_answer_does_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(1)
    pooled = torch.nn.functional.normalize(torch.randn(64, 16, generator=generator), dim=-1)
    classifier = linear(20 * torch.randn(50, 16, generator=generator))
    whole = match(classifier, Features(pooled), top_k=5)
    single = [match(classifier, Features(row[None]), top_k=5) for row in pooled]
    assert torch.equal(whole.labels, torch.cat([matches.labels for matches in single]))
    torch.testing.assert_close(whole.scores, torch.cat([matches.scores for matches in single]))


def test_half_precision_features_give_float32_probabilities():
    matches = match(identity(2), Features(torch.tensor([[0.0, 1.0]], dtype=torch.float16)), top_k=2)
    assert matches.scores.dtype == torch.float32
    torch.testing.assert_close(matches.scores.sum(), torch.tensor(1.0))


def test_top_k_below_one_is_refused():
    with pytest.raises(ValueError, match="top_k is 0; ask for at least one class"):
        match(identity(2), Features(torch.zeros(1, 2)), top_k=0)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_one_logit_that_is_not_finite_is_refused(wrong):
    logits = torch.zeros(3, 2)
    logits[1, 1] = wrong
    with pytest.raises(ValueError, match="not finite"):
        match(Fixed(LabelSet(("a", "b")), logits), Features(torch.zeros(3, 1)), top_k=1)


def test_no_images_have_no_matches():
    matches = match(identity(2), Features(torch.zeros(0, 2)), top_k=1)
    assert (matches.labels.tolist(), matches.scores.tolist(), matches.margin.tolist()) == ([], [], [])


def test_logits_of_another_shape_are_refused():
    classifier = Linear(LabelSet(("a", "b", "c")), torch.eye(2))
    with pytest.raises(ValueError, match=r"logits \(1, 2\); expected \[n, c\] = \(1, 3\)"):
        match(classifier, Features(torch.zeros(1, 2)), top_k=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_accelerator_ranks_as_the_processor_does():
    logits = torch.randint(0, 9, (200, 300), generator=torch.Generator().manual_seed(0)).float()
    on_device = match(identity(300), Features(logits.cuda()), top_k=5)
    on_host = match(identity(300), Features(logits), top_k=5)
    assert torch.equal(on_device.labels.cpu(), on_host.labels)
    torch.testing.assert_close(on_device.scores.cpu(), on_host.scores)


def test_sigmoid_scores_are_of_each_class_by_itself_and_rank_alike():
    labels = LabelSet(("one", "two", "three"))
    classifier = ZeroShot(labels, torch.eye(3), scale=10.0, bias=-6.0, trained_bias=True)
    features = Features(torch.tensor([[0.0, 0.8, 0.6], [0.0, 0.0, 0.0], [8.0, 9.0, 7.0]]))
    found, softmax = (match(classifier, features, top_k=3, scores=scores) for scores in ("sigmoid", "softmax"))
    assert found.labels.tolist() == softmax.labels.tolist() == [[1, 2, 0], [0, 1, 2], [1, 0, 2]]
    by_hand = [1 / (1 + 2.718281828**-logit) for logit in (2, 0, -6)]
    torch.testing.assert_close(found.scores, torch.tensor([by_hand, [by_hand[2]] * 3, [1.0] * 3]))
    torch.testing.assert_close(found.margin, torch.tensor([by_hand[0] - by_hand[1], 0.0, 0.0]))


def test_sigmoid_scores_are_refused_where_logits_have_no_level():
    features, labels = Features(torch.eye(2)), LabelSet(("one", "two"))
    with pytest.raises(ValueError, match="need an encoder that was trained with a logit bias"):
        match(ZeroShot(labels, torch.eye(2), scale=10.0, bias=-6.0), features, scores="sigmoid")
    with pytest.raises(ValueError, match="heads and learned prompts are trained with softmax"):
        match(identity(2), features, scores="sigmoid")
    with pytest.raises(ValueError, match="scores are 'logits'; choose one of softmax, sigmoid"):
        match(identity(2), features, scores="logits")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Watched:
    """Sums what pooled, patch and other features say, with many ties, and notes how many rows it gets at once."""

    labels: LabelSet
    rows: list[int]

    def __call__(self, features: Features) -> torch.Tensor:
        assert features.patches is not None
        self.rows.append(len(features.pooled))
        assert features.ids == tuple(str(int(row)) for row in features.pooled[:, 0])
        values = features.pooled[:, :1] + features.patches.sum((1, 2))[:, None] + features.others["second"]
        return (values * torch.arange(len(self.labels)) % 7).floor()  # [n, c], whole numbers from 0 to 6


def test_many_classes_are_ranked_in_blocks_of_images_as_all_at_once(monkeypatch: pytest.MonkeyPatch):
    labels = LabelSet(tuple(f"class {row}" for row in range(100)))
    ids = torch.arange(37.0)
    features = Features(
        ids[:, None],
        ids.repeat(3, 2, 1).permute(2, 1, 0),
        tuple(str(int(row)) for row in ids),
        {"second": ids[:, None]},
    )
    whole, parts = Watched(labels, []), Watched(labels, [])
    expected = match(whole, features, top_k=9)
    monkeypatch.setattr("rag_clip.classifiers.match.LOGITS_AT_ONCE", 1_050)
    found = match(parts, features, top_k=9)
    assert (whole.rows, parts.rows) == ([37], [10, 10, 10, 7])
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.margin, expected.margin)
    by_hand = whole(features).argsort(dim=1, descending=True, stable=True)[:, :9]
    assert torch.equal(found.labels, by_hand)


def test_memory_does_not_grow_with_the_images_times_21_000_classes():
    code = (
        "import resource, torch\n"
        "from rag_clip.classifiers.match import match\n"
        "from rag_clip.classifiers.zero_shot import ZeroShot\n"
        "from rag_clip.data import Features, LabelSet\n"
        "torch.set_num_threads(1)\n"
        "labels = LabelSet(tuple(f'class {row}' for row in range(21_000)))\n"
        "classifier = ZeroShot(labels, torch.randn(21_000, 16), 1.0)\n"
        "peaks = []\n"
        "for count in (798, 3_990):\n"
        "    assert match(classifier, Features(torch.randn(count, 16))).labels.shape == (count, 5)\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
        "print(peaks[1] - peaks[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 128, "MiB; all logits take 255"
