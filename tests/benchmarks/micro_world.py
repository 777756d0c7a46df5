"""Names only, on the photographs of the micro world: prompts, support found for names, every head at its defaults.

`python tests/benchmarks/micro_world.py FOLDER [--heads NAME ...]` prints top-1 in percent for head / tail / unseen /
all, the mean and the sample standard deviation over the three render seeds of the test photographs; `--photographs
validation` has one seed, and is what may choose. Support is found by the words of the prompts' captions (`support
retrieve --search captions`), and copies of the photographs are kept out of it. After the bar, openness over the
groups of the label set: Acc-C, Acc-E and Acc-S, all photographs together, and the calibration error. With `--refine`
there is a row for each classifier in which all photographs are evidence for each, and with `--second` a row in which
their features from the bundled self-supervised encoder are evidence too. `--hub-bank` adds the rows of each set of
prompts corrected by a bank, such as FOLDER/images (`rag_clip/classifiers/hubs.py`). Heads are as published unless
`--floor` is given, which `classify` does by default.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

import polars as pl
import torch

from rag_clip.classifiers.anchored import held_evidence
from rag_clip.classifiers.evidence import one_label
from rag_clip.classifiers.heads import HEADS, build_head
from rag_clip.classifiers.hubs import HubBank, correct_hubs
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shots
from rag_clip.corpus.cleaning import load_cleaning
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.demo.pictures import write_pictures
from rag_clip.files.labels import read_labels
from rag_clip.files.support import read_support
from rag_clip.images.labelled import Labelled, read_labelled
from rag_clip.metrics.calibration import calibration_error
from rag_clip.metrics.openness import number_groups, openness
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.captions import build_index
from rag_clip.pipelines.images import index_images
from rag_clip.pipelines.support_retrieve import retrieve_support
from rag_clip.prompts.enhance import control_prompts, enhance
from rag_clip.prompts.recipe import load_recipe
from rag_clip.protocols import Classifier, Encoder
from rag_clip.refinement.batch import refine
from rag_clip.store import open_store

ASSETS = Path(str(files("rag_clip.demo"))) / "assets"
HEADS_OF_ONE_ENCODER = [name for name, head in HEADS.items() if not head.second_encoder and not head.trains_texts]


def main() -> None:
    """Build the two indexes where they are missing, then print a row for each classifier."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--heads", nargs="*", default=HEADS_OF_ONE_ENCODER)
    parser.add_argument("--refine", action="store_true")
    parser.add_argument("--second", action="store_true")
    parser.add_argument("--hub-bank")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--photographs", choices=("test", "validation"), default="test")
    options = parser.parse_args()
    photographs = ASSETS / f"{options.photographs}.parquet"
    folder, encoder = options.folder, load_encoder("demo", device="cpu")
    prepare(folder, encoder)
    labels = read_labels(ASSETS / "labels.json")
    second = {"second": load_encoder("demo:second", device="cpu")} if options.second else {}
    test = read_labelled([photographs], labels, encoder=encoder, others=second, features_dir=folder / "features")
    with open_store(folder / "captions") as store:
        plain = enhance(labels, encoder=encoder, recipe=load_recipe("templates"))
        found = enhance(labels, encoder=encoder, store=store)
        sets = {
            "templates": plain,
            "RePE as published": enhance(labels, encoder=encoder, recipe=load_recipe("repe"), store=store),
            "default recipe": found,
            "control: random captions": control_prompts(found, "random", store=store),
            "control: random words": control_prompts(found, "waffle"),
        }
    classifiers = dict(zip(sets, zero_shots(list(sets.values()), encoder), strict=True))
    for name, classifier in classifiers.items():
        show(name, classifier, classifier, test, photographs, options.refine)
        if options.hub_bank:
            corrected = correct_hubs(classifier, HubBank(options.hub_bank).read(encoder.fingerprint))
            show(f"{name}, hub", corrected, classifier, test, photographs, options.refine)
    for name, prompts in (("templates", plain), ("default recipe", found)):
        path = folder / f"support-{name.split()[0]}.parquet"
        summary = retrieve_support(
            prompts,
            output=path,
            index=str(folder / "images"),
            encoder=encoder,
            search="captions",
            against=[photographs],
        )
        support = read_support(path, encoder=encoder.fingerprint)
        print(f"{name}: {len(support)} images found, {len(support.missing)} classes without; {summary.containment}")
        for head in options.heads:
            text = classifiers[name]
            built = build_head(head, support, encoder=encoder, floor=options.floor)(text)
            show(f"{name} + {head}", built, text, test, photographs, options.refine)


def prepare(folder: Path, encoder: Encoder) -> None:
    """Write and index captions and photographs that are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pictures.parquet").exists():
        write_pictures(folder / "pictures.parquet")
    cleaning = load_cleaning("none")
    index_images([folder / "pictures.parquet"], index=folder / "images", encoder=encoder, cleaning=cleaning)
    build_index([str(ASSETS / "corpus.parquet")], index=folder / "captions", encoder=encoder)


def show(
    name: str, classifier: Classifier, text: ZeroShot, test: Labelled, photographs: Path, with_refined: bool
) -> None:
    """Print the accuracy of a classifier per band and over all; `with_refined`, in a second row, refined."""
    if with_refined:
        show(name, classifier, text, test, photographs, False)
        refined = refine(classifier, test.features, text.weights, held=held_evidence(classifier))
        if test.features.others:
            further = tuple(test.features.others)
            beside = refine(classifier, test.features, text.weights, held=held_evidence(classifier), further=further)
            show(f"{name}, refined, second", beside, text, test, photographs, False)
        name, classifier = f"{name}, refined", refined
    band = {concept.name: concept.band for concept in concepts()}
    logits = classifier(test.features)
    targets = one_label("test set", test.targets)
    right = logits.argmax(1) == targets
    _, groups = number_groups(classifier.labels.groups)
    opened = openness(logits, targets, groups)
    names = [classifier.labels.names[row] for row in targets.tolist()]
    seeds = pl.read_parquet(photographs, columns=["seed"])["seed"]
    table = pl.DataFrame({"right": right.tolist(), "band": [band[each] for each in names], "seed": seeds})
    cells = [cell(table.filter(pl.col("band") == each)) for each in BANDS] + [cell(table)]
    open_cells = " / ".join(f"{100 * value:.1f}" for value in (opened.acc_c, opened.acc_e, opened.acc_s))
    error = f"{100 * calibration_error(logits, targets):.1f}"
    print(f"{name:<47}{' / '.join(cells)} | {open_cells} | {error}", flush=True)


def cell(table: pl.DataFrame) -> str:
    """Format the mean and deviation over the render seeds."""
    seeds = (table.group_by("seed").agg(pl.col("right").mean())["right"] * 100).to_numpy()
    return f"{seeds.mean():.1f} ± {seeds.std(ddof=1):.1f}" if len(seeds) > 1 else f"{seeds.mean():.1f}"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
