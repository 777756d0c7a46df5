"""What training cost: the numbers a head learned, and its main metric with them taken into account."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rag_clip.evaluation.protocol import parameter_efficiency
from rag_clip.evaluation.results import Measure
from rag_clip.protocols import Classifier


@runtime_checkable
class Trained(Protocol):
    """A classifier that says how many numbers were trained, none where it was only built."""

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""


def measure_cost(classifier: Classifier, main: Measure) -> tuple[Measure, ...]:
    """Return `parameters`, and ELEVATER's `parameter_efficiency` of the main metric; of what did not train, nothing."""
    if not isinstance(classifier, Trained) or not classifier.parameters:
        return ()
    count = classifier.parameters
    value = parameter_efficiency(main.value, count)
    low, high = (None if bound is None else parameter_efficiency(bound, count) for bound in (main.low, main.high))
    return (
        Measure("parameters", "", float(count)),
        Measure("parameter_efficiency", "", value, low, high),
    )
