"""The linear form of a classifier, for programs that know only weights and a bias: logits = scale * f W' + b.

The texts alone are linear, and so are heads that add linear logits, by the strength t of their floor too. What a head
adds to all classes of an image alike (`evidence.among`) changes neither its labels nor its softmax, and is left out.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from rag_clip.classifiers.coop import CoOp
from rag_clip.classifiers.evidence import Discriminant
from rag_clip.classifiers.floor import Floored
from rag_clip.classifiers.linear_probe import LinearProbe
from rag_clip.classifiers.priming import Primed
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.display import listed
from rag_clip.files.linear_classifiers import LinearClassifier
from rag_clip.protocols import Classifier, Encoder

LINEAR_HEADS = ("priming", "gaussian", "linear_probe", "evidence", "coop")


def check_linear_head(name: str) -> None:
    """Raise ValueError for a head whose logits are not linear in the features, before it is fitted."""
    if name not in LINEAR_HEADS:
        raise ValueError(
            f"the logits of the head {name} are not linear in the image features, since it compares an image with each "
            f"support image, or changes the features first; use {listed(LINEAR_HEADS)}, or export the texts alone"
        )


@torch.no_grad()
def linear_form(classifier: Classifier, encoder: Encoder) -> LinearClassifier:
    """Return the weights [c, d] and biases [c] of a classifier, computed in float64.

    classifier: the texts alone, or a head.
    encoder: what makes the features; the weights are divided by its scale.

    Softmax of the logits is that of the classifier, up to rounding. Raises ValueError, naming the head, for one whose
    logits are not linear in the features.
    """
    (matrix, bias), scale = _linear(classifier), float(encoder.scale)
    text = classifier if isinstance(classifier, ZeroShot) else None
    return LinearClassifier(
        classifier.labels,
        (matrix / scale).float().contiguous(),
        bias.float().contiguous(),
        scale,
        {"encoder": asdict(encoder.fingerprint)},
        sigmoid=text is not None and text.trained_bias,
    )


def _linear(classifier: Classifier) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors [c, d] of unit features and the biases [c], float64 on the CPU."""
    match classifier:
        case ZeroShot():
            weights = classifier.weights.double().cpu()
            return classifier.scale * weights, torch.full((len(weights),), classifier.bias, dtype=torch.float64)
        case Floored() if not classifier.strength:
            return _linear(classifier.zero_shot)
        case Floored():
            (text, text_bias), (head, head_bias) = _linear(classifier.zero_shot), _linear(classifier.head)
            strength = classifier.strength
            return text + strength * (head - text), text_bias + strength * (head_bias - text_bias)
        case Primed():
            return _linear(replace(classifier.zero_shot, weights=classifier.weights))
        case CoOp():
            return _linear(classifier.learned)
        case Discriminant():
            _check_present(classifier, classifier.present)
            text, bias = _linear(classifier.zero_shot)
            return text + classifier.weights.double().cpu(), bias + classifier.offsets.double().cpu()
        case LinearProbe():
            _check_present(classifier, classifier.present)
            return classifier.weights.double().cpu(), classifier.biases.double().cpu()
    raise ValueError(f"{type(classifier).__name__} has no linear form; use {listed(LINEAR_HEADS)}, or the texts alone")


def _check_present(classifier: Classifier, present: torch.Tensor) -> None:
    missing = [label for label, there in zip(classifier.labels.names, present.tolist(), strict=True) if not there]
    if missing:
        raise ValueError(
            "the head decides only among the classes with images, so its logits are not linear where some have none "
            f"({listed(missing)}); add images of these, use priming or coop, or export the texts alone"
        )
