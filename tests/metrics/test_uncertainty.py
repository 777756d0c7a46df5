"""Intervals: the normal limit, strata, and scipy's for shares."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from inputs.number_checks import near
from rag_clip.metrics import uncertainty
from rag_clip.metrics.uncertainty import (
    Interval,
    bootstrap,
    bootstrap_corrected,
    bootstrap_together,
    mean_interval,
    share_interval,
)


def test_the_interval_of_an_accuracy_is_near_its_normal_limit() -> None:
    found = mean_interval((torch.arange(1000) % 5 == 0).double(), draws=4000)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.0248, 0.2 + 0.0248), abs=0.002)


def test_strata_count_alike_and_are_drawn_apart() -> None:
    values, strata = torch.tensor([1.0, 0, 0, 0, 1]), torch.tensor([7, 2, 2, 2, 2])
    found = mean_interval(values, strata=strata, draws=4000)
    assert found.value == 0.625
    # Three of the four are drawn: none right in 27 of 64 draws, all in one.
    assert found.low == pytest.approx(0.5)
    assert found.high == pytest.approx(0.5 + 1 / 3)


def test_few_images_a_stratum_have_all_of_their_variance() -> None:
    draw, truth, covered = torch.Generator().manual_seed(0), torch.linspace(0.1, 0.9, 60), 0
    strata = torch.arange(60).repeat_interleave(3)
    for _ in range(300):
        right = torch.rand(180, generator=draw) < truth.repeat_interleave(3)
        found = mean_interval(right, strata=strata, draws=200)
        covered += found.low <= 0.5 <= found.high
    assert 0.92 < covered / 300 < 0.98


def test_shares_are_drawn_as_numbers_are() -> None:
    draw = torch.Generator().manual_seed(0)
    right, strata = torch.rand(500, generator=draw) < 0.7, torch.randint(20, (500,), generator=draw)
    for given in (None, strata):
        counted, drawn = (mean_interval(values, strata=given, draws=4000) for values in (right, right.double()))
        assert counted.value == pytest.approx(drawn.value)
        assert (counted.low, counted.high) == pytest.approx((drawn.low, drawn.high), abs=0.004)


def test_images_of_one_kind_leave_no_doubt() -> None:
    assert mean_interval(torch.ones(50), draws=10) == Interval(near(1.0), near(1.0), near(1))


def test_the_same_seed_gives_the_same_interval_in_any_blocks() -> None:
    values = torch.linspace(0, 1, 30)
    whole = mean_interval(values, draws=50, seed=3)
    parts = mean_interval(values, draws=50, seed=3, cells=100)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), rel=1e-12)
    other = mean_interval(values, draws=50, seed=4)
    assert other.value == whole.value
    assert (other.low, other.high) != pytest.approx((whole.low, whole.high), rel=1e-12)


def test_any_measure_has_an_interval() -> None:
    values = (torch.arange(1000) % 2).double()
    deviation, mean = bootstrap(lambda rows: [float(values[rows].std()), float(values[rows].mean())], 1000)
    assert (deviation.value, mean.value) == pytest.approx((float(values.std()), 0.5))
    assert 0.49 < deviation.low < deviation.high < 0.51
    assert (mean.low, mean.high) == pytest.approx((0.469, 0.531), abs=0.008)


def test_a_measure_of_many_samples_at_once_has_the_interval_of_one_after_another(monkeypatch) -> None:
    values = torch.rand(70, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (expected,) = bootstrap(lambda rows: [float(values[rows].square().sum())], 70, draws=30, seed=2)
    for cells in (uncertainty.CELLS, 500, 1):
        monkeypatch.setattr(uncertainty, "CELLS", cells)
        found = bootstrap_together(lambda rows: values[rows].square().sum(1), 70, draws=30, seed=2)
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_any_measure_may_be_drawn_within_strata() -> None:
    strata = torch.tensor([1, 0, 1, 1])
    drawn: list[list[int]] = []

    def note(rows: torch.Tensor) -> list[float]:
        drawn.append(rows.tolist())
        return [0.0]

    bootstrap(note, 4, strata=strata, draws=50)
    assert drawn.pop() == [0, 1, 2, 3]
    assert {tuple(row[:1]) for row in drawn} == {(1,)}
    assert {row for rows in drawn for row in rows[1:]} == {0, 2, 3}
    assert {len(rows) for rows in drawn} == {3}


def test_a_measure_that_few_images_make_too_great_is_corrected_within_its_range() -> None:
    values = torch.linspace(0, 1, 12, dtype=torch.float64)

    def least(rows: torch.Tensor) -> list[float]:
        return [float(values[rows].min()), 1.0]

    (plain, sure), (found, _) = bootstrap(least, 12), bootstrap_corrected(least, 12)
    assert (plain.value, plain.low, found.low, found.value) == (0.0, 0.0, 0.0, 0.0)
    assert 0 < found.high < plain.high
    assert sure == Interval(1.0, 1.0, 1.0)


def test_the_correction_is_twice_what_the_draws_have_too_much_of() -> None:
    values, drawn = torch.linspace(0.3, 0.7, 40, dtype=torch.float64), []

    def spread(rows: torch.Tensor) -> list[float]:
        drawn.append(float(values[rows].std(correction=0)))
        return drawn[-1:]

    (found,) = bootstrap_corrected(spread, 40, draws=300)
    draws = torch.tensor(drawn[:-1], dtype=torch.float64)
    ends = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    assert [found.low, found.high] == pytest.approx((ends - 2 * (draws.mean() - drawn[-1])).tolist())


def test_a_draw_without_a_number_is_left_out() -> None:
    values = torch.tensor([float("nan"), 1.0, 1.0])
    (found,) = bootstrap(lambda rows: [float(values[rows].nanmean())], 3)
    assert found == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize(("right", "total"), [(0, 5), (3, 7), (5, 5), (800, 1000)])
def test_the_interval_of_a_share_agrees_with_scipy(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(method="wilson")
    found = share_interval(right, total)
    assert found.value == right / total
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_no_image_and_no_draw_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no image"):
        mean_interval(torch.zeros(0))
    with pytest.raises(ValueError, match="draws is 0"):
        bootstrap(lambda rows: [0.0], 5, draws=0)
    with pytest.raises(ValueError, match="there is no image"):
        share_interval(0, 0)
