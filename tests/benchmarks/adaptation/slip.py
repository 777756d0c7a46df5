"""SLIP with few pairs: does a loss between views help features of images, and descriptions?

    cd tests/benchmarks && python -m adaptation.slip [--steps 300] [--seeds 3] [--pairs 1000] [--start both]

Arms: clip, and slip (its MLP 512 wide, crops of at least half of the area), on the same fixed photographs. The claim is
+3 points for the nearest of four-shot means and +1 for descriptions.
"""

from __future__ import annotations

from adaptation.arms import arguments, run, seeds, show
from adaptation.world import draw_world

from rag_clip.training.objectives.clip import Clip
from rag_clip.training.objectives.slip import Slip


def main() -> None:
    """Run both arms for each seed."""
    options = arguments(__doc__, start="both", pairs=1000).parse_args()
    for seed in seeds(options):
        world = draw_world(options.pairs, seed=seed)
        clip = run("clip", Clip(), world, options, seed)
        slip = run("slip", Slip(hidden=512), world, options, seed)
        gain = slip.nearest - clip.nearest
        print(f"seed {seed}: slip over clip: description {show(clip, slip)}, nearest mean {gain:+.1f}", flush=True)


if __name__ == "__main__":
    main()
