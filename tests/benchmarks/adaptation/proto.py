"""ProtoCLIP from scratch: do clusters help features of images at equal steps?

    cd tests/benchmarks && python -m adaptation.proto [--steps 320] [--seeds 3] [--pairs 4096] [--start both]

Arms: clip, with prototypes, and with prototypes and teacher; the teacher is the bundled text tower, as a start encoder
from scratch knows nothing. An episode is all pairs, with a tenth as many clusters and ten iterations of k-means. It
prints the four-shot nearest mean and a linear probe on the same shots; the claim is +2 points for the probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from adaptation.arms import arguments, seeds, show, train
from adaptation.world import SHOT_SEED, TEST_SEED, bundled, draw_world, embed, labelled, measure
from torch import nn
from torch.nn.functional import one_hot

from rag_clip.demo.concepts import concepts
from rag_clip.models.towers import TwoTowers
from rag_clip.training.objective import Objective, Setting
from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.proto import Proto, ProtoLoss
from rag_clip.training.towers import Towers

RIDGE = 0.1


@dataclass(frozen=True, slots=True)
class Taught(Proto):
    """ProtoCLIP whose teacher is the bundled encoder."""

    def build(self, towers: Towers, setting: Setting) -> nn.Module:
        """Return the loss."""
        loss = ProtoLoss(towers, self, setting)
        loss.frozen = (bundled(),)
        return loss


def main() -> None:
    """Run the arms for each seed."""
    parser = arguments(__doc__, start="both", pairs=4096)
    parser.add_argument("--without-teacher", action="store_true", help="leave out the last arm")
    options = parser.parse_args()
    arms: dict[str, Objective] = {
        "clip": Clip(),
        "prototypes": Proto(teacher=0, hidden=512, iterations=10),
        "prototypes, teacher": Taught(hidden=512, iterations=10),
    }
    if options.without_teacher:
        del arms["prototypes, teacher"]
    for seed in seeds(options):
        world = draw_world(options.pairs, seed=seed)
        found = []
        for name, objective in arms.items():
            encoder = train(objective, world, options, seed)
            found.append((measure(encoder), probe(encoder)))
            print(f"seed {seed} {name:<20} {found[-1][0]}  linear probe {found[-1][1]:.1f}", flush=True)
        (clip, linear), *others = found
        for name, (measured, probed) in zip(list(arms)[1:], others, strict=True):
            print(
                f"seed {seed}: {name} over clip: description {show(clip, measured)}, nearest mean "
                f"{measured.nearest - clip.nearest:+.1f}, linear probe {probed - linear:+.1f}",
                flush=True,
            )


def probe(encoder: TwoTowers) -> float:
    """Return the accuracy in percent of a ridge regression to one-hot labels from four photographs of each concept."""
    everything = range(len(concepts()))
    shots, targets = labelled(everything, seed=SHOT_SEED, count=4)
    test, truth = labelled(everything, seed=TEST_SEED, count=4)
    rows, held = embed(encoder, shots), embed(encoder, test)
    rows, held = (torch.nn.functional.pad(each - rows.mean(0), (0, 1), value=1.0) for each in (rows, held))
    ridge = RIDGE * len(rows) / rows.shape[1] * torch.eye(rows.shape[1])
    weights = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ one_hot(targets).float())
    return 100 * float(((held @ weights).argmax(1) == truth).float().mean())


if __name__ == "__main__":
    main()
