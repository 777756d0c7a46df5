from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inputs.folders import needs_features
from inputs.supports import as_validation, check_contract, random_support, random_text, real_shots, unit
from rag_clip.classifiers.anchored import Anchored, EvidenceSettings, anchored, held_evidence
from rag_clip.classifiers.floor import Floored, floored_whole
from rag_clip.classifiers.heads import build_head
from rag_clip.data import Features, SeveralLabels, Support
from rag_clip.files.support import write_support
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_evidence import support_evidence
from rag_clip.refinement.batch import refine

TEXT = random_text(4, 24, scale=40.0)
SUPPORT = random_support(TEXT, [5, 2, 0, 1])
QUERIES = Features(unit(torch.randn(9, 24, generator=torch.Generator().manual_seed(1))).double())
MIXED = replace(
    random_support(TEXT, [3, 3, 3, 3], soft=True),
    origin=("shot", "retrieved", "synthesised") * 4,
)


def by_the_equations(text: np.ndarray, images: np.ndarray, shares: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return what the head adds to zero-shot, an image and a class at a time; `shares` [m, c] include the weights."""
    n, total, c = shares.sum(0), shares.sum(), shares.shape[1]
    gap = sum(share[k] * (x - text[k]) for x, share in zip(images, shares, strict=True) for k in range(c)) / total
    means = [(shares[:, k] @ images + text[k] + gap) / (n[k] + 1) for k in range(c)]
    weighed = shares.sum(1)
    tau = weighed @ images**2 / total - (weighed @ images / total) ** 2
    inside = sum(s[k] * (x - means[k]) ** 2 for x, s in zip(images, shares, strict=True) for k in range(c))
    inside = inside + sum((text[k] + gap - means[k]) ** 2 for k in range(c)) + c * (tau + tau.mean()) / 2
    variance = inside / (total + c)
    variance = variance + 0.1 * variance.mean()
    scores = np.array([[x @ (m / variance) - 0.5 * (m**2 / variance).sum() for m in means] for x in queries])
    return total / (total + 2 * c) / 50 * (scores - scores.mean(1, keepdims=True))


def test_equals_the_equations_in_float64() -> None:
    head = EvidenceSettings().build(TEXT, MIXED)
    weights = np.array([1.0, 0.5, 0.25] * 4)
    shares = MIXED.shares.double().numpy() * (weights * MIXED.relevance.double().numpy())[:, None]
    text = unit(TEXT.weights.double()).numpy()
    added = by_the_equations(text, MIXED.features.double().numpy(), shares, QUERIES.pooled.numpy())
    found = head(QUERIES) - TEXT(QUERIES)  # up to a constant of each image
    found -= found.mean(1, keepdim=True)
    torch.testing.assert_close(found, torch.from_numpy(added), rtol=1e-9, atol=1e-9)


def test_the_contract_of_a_head_holds() -> None:
    check_contract(EvidenceSettings().build)


def test_each_origin_is_a_source_and_one_without_weight_changes_nothing() -> None:
    evidence = EvidenceSettings().gather(MIXED)
    assert {name: len(each.counts) for name, each in evidence.sources.items()} == dict.fromkeys(
        ("shot", "retrieved", "synthesised"), 4
    )
    assert evidence.images == {"shot": 4, "retrieved": 4, "synthesised": 4}
    rows = [row for row, origin in enumerate(MIXED.origin) if origin == "retrieved"]
    expected = 0.5 * float(MIXED.relevance[rows].double().sum())
    assert float(evidence.sources["retrieved"].counts.sum()) == pytest.approx(expected)
    without = anchored(TEXT, evidence.without("synthesised"))(QUERIES)
    torch.testing.assert_close(EvidenceSettings(synthesised=0).build(TEXT, MIXED)(QUERIES), without)
    kept = torch.tensor([origin != "synthesised" for origin in MIXED.origin])
    torch.testing.assert_close(EvidenceSettings().build(TEXT, take(MIXED, kept))(QUERIES), without)


def take(support: Support, kept: torch.Tensor) -> Support:
    rows = kept.nonzero()[:, 0].tolist()
    return replace(
        support,
        features=support.features[kept],
        targets=support.shares[kept],
        relevance=support.relevance[kept],
        origin=tuple(support.origin[row] for row in rows),
        references=tuple(support.references[row] for row in rows),
    )


def test_without_any_weight_it_is_zero_shot_and_images_with_several_labels_are_refused() -> None:
    nothing = EvidenceSettings(shot=0, retrieved=0, synthesised=0).build(TEXT, MIXED)
    assert torch.equal(nothing(QUERIES), TEXT(QUERIES))
    several = replace(SUPPORT, targets=SeveralLabels(SUPPORT.shares > 0))
    with pytest.raises(ValueError, match="several labels"):
        EvidenceSettings().build(TEXT, several)
    with pytest.raises(ValueError, match="the origin 'dream'; evidence is of shot, corrected, retrieved, synthesised"):
        EvidenceSettings().build(TEXT, replace(SUPPORT, origin=("dream",) * len(SUPPORT)))
    with pytest.raises(ValueError, match=r"retrieved = -1.*; give numbers from 0"):
        EvidenceSettings(retrieved=-1)


def test_files_of_parts_give_the_head_of_the_whole(tmp_path: Path) -> None:
    kept = torch.tensor([row % 2 == 0 for row in range(len(MIXED))])
    for name, part in (("a", take(MIXED, kept)), ("b", take(MIXED, ~kept))):
        write_support(part, tmp_path / f"{name}.parquet")
    support_evidence(tmp_path / "a.parquet", output=tmp_path / "a.safetensors")
    both = [tmp_path / "a.safetensors", tmp_path / "b.parquet"]
    made = support_evidence(both, output=tmp_path / "all.safetensors")
    expected = EvidenceSettings().build(TEXT, MIXED)(QUERIES)
    torch.testing.assert_close(anchored(TEXT, made)(QUERIES), expected, rtol=1e-6, atol=1e-6)
    found = support_evidence(MIXED, without=["shot", "synthesised"])
    assert list(found.sources) == ["retrieved"]
    (tmp_path / "foreign.safetensors").write_text("mine")
    with pytest.raises(ValueError, match="was not written by `rag-clip support evidence`"):
        support_evidence(MIXED, output=tmp_path / "foreign.safetensors")
    support_evidence(MIXED, output=tmp_path / "foreign.safetensors", running=Running(force=True))
    with pytest.raises(ValueError, match="is one of the inputs"):
        support_evidence(both, output=tmp_path / "a.safetensors")


def test_validation_images_judge_evidence_that_has_no_images() -> None:
    head = EvidenceSettings().build(TEXT, SUPPORT)
    assert floored_whole(TEXT, head, None).strength == 1
    good = as_validation(random_support(TEXT, [9, 9, 9, 9], seed=5))
    assert floored_whole(TEXT, head, good).images == 36
    wrong = replace(good, targets=TEXT(good.features).argmin(1))
    harmful = replace(head, weights=-100 * head.weights)
    right = replace(good, targets=TEXT(good.features).argmax(1))
    assert floored_whole(TEXT, harmful, right).strength == 0
    assert floored_whole(TEXT, head, wrong).by == "judged images"


def test_the_evidence_in_a_head_is_what_the_floor_leaves_of_it() -> None:
    head = EvidenceSettings().build(TEXT, SUPPORT)
    half = Floored(TEXT, head, 0.5, "judged images", 8)
    held = held_evidence(half)
    assert held is not None
    torch.testing.assert_close(held.evidence.counts, 0.5 * head.evidence.total.counts)
    assert held.without is TEXT
    assert held_evidence(TEXT) is None
    assert held_evidence(Floored(TEXT, head, 0.0, "judged images", 8)) is None
    assert held_evidence(build_head("ridge", SUPPORT, encoder=None, floor=True)(TEXT)) is None


@needs_features
@pytest.mark.parametrize(
    ("model", "alone", "refined"),
    [
        ("ViTB32", (0.867, 0.900, 0.927, 0.940, 0.948), (0.942, 0.942, 0.944, 0.945, 0.946)),
        ("ViTL14", (0.934, 0.970, 0.981, 0.990, 0.993), (0.989, 0.990, 0.991, 0.991, 0.991)),
    ],
)
def test_shots_alone_and_beside_the_images_of_the_file_on_real_features(
    model: str, alone: tuple[float, ...], refined: tuple[float, ...]
) -> None:
    for shots, expected, with_images in zip((1, 2, 4, 8, 16), alone, refined, strict=True):
        found = torch.tensor([measured(model, shots, seed) for seed in range(3)]).mean(0)
        assert float(found[0]) == pytest.approx(expected, abs=0.012), shots
        assert float(found[1]) == pytest.approx(with_images, abs=0.006), shots


def measured(model: str, shots: int, seed: int) -> tuple[float, float]:
    """Return the accuracy of shots alone, and together with the other images, on which it is measured."""
    text, support, images, labels = real_shots(model, shots, seed)
    head = EvidenceSettings().build(text, support)
    assert isinstance(head, Anchored)
    together = refine(head, images, text.weights, held=held_evidence(head))
    first, second = ((each(images).argmax(1) == labels).float().mean() for each in (head, together))
    return float(first), float(second)
