import math

from rag_clip.classifiers.probe_search import NOTHING, RATES, WEIGHT_DECAYS, search_rates
from rag_clip.progress import Progress


def peak(rate: float, place: int):
    """Score by how near two settings are to a rate and a weight decay, on the scale of the grid."""

    def score(tried: float, weight_decay: float) -> tuple[float, float]:
        return -abs(math.log10(tried / rate)), -abs(math.log10(weight_decay / WEIGHT_DECAYS[place]))

    return score


def test_the_grid_is_the_published_one():
    assert RATES == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    assert (len(WEIGHT_DECAYS), WEIGHT_DECAYS[0], WEIGHT_DECAYS[48], WEIGHT_DECAYS[96]) == (97, 1e-6, 1.0, 1e6)


def test_every_peak_of_the_grid_is_found():
    found = [search_rates(peak(1e-2, place)) for place in range(97)]
    assert [(best.rate, best.weight_decay) for best in found] == [(1e-2, decay) for decay in WEIGHT_DECAYS]


def test_no_pair_is_tried_twice_and_the_trials_are_reported():
    tried: list[tuple[float, float]] = []
    events: list[Progress] = []

    def score(rate: float, weight_decay: float) -> tuple[float, float]:
        tried.append((rate, weight_decay))
        return peak(1e-3, 40)(rate, weight_decay)

    search_rates(score, report=events.append)
    assert len(tried) == len(set(tried)) == 90
    assert events[-1] == Progress("tune", 90, 90, "trials")


def test_what_is_given_stays_and_equal_scores_leave_the_first():
    best = search_rates(lambda rate, weight_decay: NOTHING, weight_decay=0.5)
    assert (best.rate, best.weight_decay, best.score) == (1e-6, 0.5, NOTHING)
    assert search_rates(peak(1e-2, 3), rate=0.7).rate == 0.7
