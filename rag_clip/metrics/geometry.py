"""Why classes are confused as a vocabulary grows: margins, alignment and uniformity.

Ren et al., Findings of ACL 2023, arXiv 2206.01986, explain the loss of accuracy by class texts that lie close together
(uniformity), while images stay as close to their own class as before (alignment).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rag_clip.metrics.openness import check_groups


@dataclass(frozen=True, slots=True, eq=False)
class Margins:
    """The label's logit minus the best other logit: `first` [n] within the label's group, `last` [n] over all classes.

    An image is correct where its margin is above 0; adding classes can only lower it. `first` is infinite where the
    class is alone in its group.
    """

    first: torch.Tensor
    last: torch.Tensor


def margins(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> Margins:
    """Return the margins at the first and the last step of a growing vocabulary; raises as `openness`."""
    check_groups(logits, targets, groups)
    own = logits.gather(1, targets[:, None].long())  # [n, 1]
    others = logits.scatter(1, targets[:, None].long(), -torch.inf)  # [n, c]
    at_home = groups[targets][:, None] == groups  # [n, c]
    first = own[:, 0] - others.masked_fill(~at_home, -torch.inf).amax(1)
    return Margins(first, own[:, 0] - others.amax(1))


def alignment(features: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor) -> float:
    """Return mean |f - w_label|^2 for unit features [n, d], targets [n] and unit class weights [c, d]; lower is better.

    The form of Wang & Isola, ICML 2020, arXiv 2005.10242. Raises ValueError for no image, and other widths.
    """
    if len(features) == 0 or features.shape != (len(targets), class_weights.shape[1]):
        raise ValueError(
            f"features are {tuple(features.shape)} for {len(targets)} targets and class weights "
            f"{tuple(class_weights.shape)}; expected [n, d], [n] and [c, d], n at least 1"
        )
    return float((features.double() - class_weights.double()[targets]).square().sum(1).mean())


def uniformity(rows: torch.Tensor, *, block: int = 2048) -> float:
    """Return log mean exp(-2 |a - b|^2) over pairs of different unit rows [r, d]; lower means more evenly spread.

    The form of Wang & Isola, ICML 2020, arXiv 2005.10242, for class weights or images. `block` rows are compared with
    all at a time, which bounds the memory. Raises ValueError for fewer
    than two rows.
    """
    if len(rows) < 2:
        raise ValueError(f"uniformity compares rows, and there are {len(rows)}; give at least two")
    rows = rows.double()
    lengths = rows.square().sum(1)
    total = 0.0
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        distances = lengths[part, None] + lengths - 2 * rows[part] @ rows.T  # [b, r], squared
        kernel = (-2 * distances).exp()
        kernel.diagonal(start).zero_()
        total += float(kernel.sum())
    mean = torch.tensor(total, dtype=torch.float64) / (len(rows) * (len(rows) - 1))
    return float(mean.log())
