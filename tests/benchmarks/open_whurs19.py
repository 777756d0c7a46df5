"""Openness of genuine CLIP features, for every prompt set in the file.

    python tests/benchmarks/open_whurs19.py NPZ...

An .npz holds `image` [n, d], `label` [n], `classes` [c], and `text` [j, c, d]: the texts of j - 1 templates, and their
ensemble last. The 19 classes of WHU-RS19 fall into four groups: transport, water and rock, green, built. In percent,
with the 95 % interval of the mean per class; ECE at a scale of 100. Highest, median and
lowest are of each column by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from rag_clip.metrics.accuracy import is_right
from rag_clip.metrics.calibration import calibration_error
from rag_clip.metrics.curves import class_curve
from rag_clip.metrics.openness import number_groups, openness
from rag_clip.metrics.sampling import sampled_openness
from rag_clip.metrics.uncertainty import mean_interval

SCALE = 100.0
GROUPS = {
    "transport": "airport bridge parking port railwaystation viaduct",
    "water and rock": "beach desert mountain pond river",
    "green": "farmland forest meadow park",
    "built": "commercial footballfield industrial residential",
}
MEASURES = ("per class", "Acc-C", "Acc-E", "Acc-S", "ECE")


def main() -> None:
    """Print the ensemble, and the spread over templates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", nargs="+", type=Path)
    for path in parser.parse_args().features:
        arrays = np.load(path, allow_pickle=True)
        images, texts = (normalize(torch.from_numpy(arrays[key]).float(), dim=-1) for key in ("image", "text"))
        targets = torch.from_numpy(arrays["label"].astype(np.int64))
        homes = {name: group for group, names in GROUPS.items() for name in names.split()}
        names, groups = number_groups([homes[str(name)] for name in arrays["classes"]])
        rows = torch.tensor([measure(SCALE * images @ text.T, targets, groups) for text in texts])
        print(path.stem)
        for title, values in (
            ("ensemble", rows[-1]),
            ("highest of templates", rows[:-1].amax(0)),
            ("median", rows[:-1].median(0).values),
            ("lowest", rows[:-1].amin(0)),
        ):
            cells = zip(MEASURES, values.tolist(), strict=True)
            print(f"  {title:20}", "  ".join(f"{measure} {100 * value:5.2f}" for measure, value in cells))
        order = torch.corrcoef(torch.stack([rows[:-1, 0], rows[:-1, 3]]))[0, 1]
        print(f"  correlation of the mean per class with Acc-S over templates: {order:.3f}")
        details(SCALE * images @ texts[-1].T, targets, groups, names)


def measure(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor) -> list[float]:
    """Return the values of MEASURES."""
    found = openness(logits, targets, groups)
    recall = mean_interval(is_right(logits, targets), strata=targets, draws=1).value
    return [recall, found.acc_c, found.acc_e, found.acc_s, calibration_error(logits, targets)]


def details(logits: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, names: tuple[str, ...]) -> None:
    """Print what else is known of the ensemble: the interval, the paper's sampling, the curve, and each group."""
    found = mean_interval(is_right(logits, targets), strata=targets)
    print(f"  ensemble, mean per class {100 * found.low:.2f} to {100 * found.high:.2f}")
    sampled = sampled_openness(logits, targets, groups)
    extended, stable = (
        f"{100 * value:.2f} +- {100 * error:.2f}"
        for value, error in ((sampled.acc_e, sampled.error_e), (sampled.acc_s, sampled.error_s))
    )
    print(f"  ensemble, the paper's 12 orders: Acc-C {100 * sampled.acc_c:.2f}, Acc-E {extended}, Acc-S {stable}")
    curve = class_curve(logits, targets)
    points = [f"{size}: {100 * float(curve.accuracy[size - 1]):.2f}" for size in (2, 5, 10, len(curve.sizes))]
    print(f"  ensemble, by classes known  {', '.join(points)}")
    for name, row in zip(names, openness(logits, targets, groups).by_group.tolist(), strict=True):
        cells = zip(MEASURES[1:4], row, strict=True)
        print(f"  ensemble, {name:15}", "  ".join(f"{measure} {100 * value:5.2f}" for measure, value in cells))


if __name__ == "__main__":
    main()
