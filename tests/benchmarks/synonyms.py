"""What names chosen from the corpus are worth on the demo's validation photographs.

    python tests/benchmarks/synonyms.py

Top-1 in percent for head / tail / unseen / all, and for the classes whose label file gives a synonym; with and without
dropping the names that the encoder puts nearer to another class; photographs gained and lost against the label's own
names. Then what became of the candidates.
"""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rag_clip.classifiers.zero_shot import zero_shots
from rag_clip.corpus.phrases import phrase_counts
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.files.labels import read_labels
from rag_clip.models.open_clip import load_encoder
from rag_clip.prompts.knowledge.candidates import gather_candidates
from rag_clip.prompts.synonyms import choose_synonyms, frequent_names, names_to_count, synonym_prompts
from rag_clip.prompts.templates import template_prompts

ASSETS = Path(str(files("rag_clip.demo"))) / "assets"


def main() -> None:
    """Count the names in the bundled corpus, classify with each choice, print a row for each."""
    encoder, labels = load_encoder("demo", device="cpu"), read_labels(ASSETS / "labels.json")
    table = pq.read_table(ASSETS / "validation.parquet", columns=["image", "label"])
    images, truth = encoder.encode_images(table["image"].to_pylist()), np.array(table["label"].to_pylist())
    candidates = gather_candidates(labels)
    corpus = pq.read_table(ASSETS / "corpus.parquet", columns=["caption"]).rename_columns(["text"])
    counts = phrase_counts([corpus], names_to_count(labels, candidates))
    reports = {
        kind: choose_synonyms(labels, candidates, counts, encoder=judge, template=labels.templates[0])
        for kind, judge in (("all", None), ("near", encoder))
    }
    variants = {"label names": template_prompts(labels)} | {
        f"{use}, {kind} names": synonym_prompts(labels, report, use=use)
        for kind, report in reports.items()
        for use in ("frequent", "ensemble")
    }
    band = {concept.name: concept.band for concept in concepts()}
    named = {name for name, synonyms in zip(labels.names, labels.synonyms, strict=True) if synonyms}
    rows = {name: np.array([band[label] == name for label in truth]) for name in BANDS}
    rows |= {"all": np.ones(len(truth), bool), "with synonyms": np.array([label in named for label in truth])}
    print(f"{'':<24}" + "".join(f"{name:>14}" for name in (*rows, "gained", "lost")))
    before = None
    for name, classifier in zip(variants, zero_shots(list(variants.values()), encoder), strict=True):
        right = np.array(labels.names)[classifier(images).argmax(1).numpy()] == truth
        before = right if before is None else before
        changes = (int((right & ~before).sum()), int((before & ~right).sum()))
        shares = "".join(f"{100 * right[chosen].mean():14.1f}" for chosen in rows.values())
        print(f"{name:<24}{shares}{changes[0]:>14}{changes[1]:>14}")
    for kind, report in reports.items():
        fate = Counter(synonym.dropped.split(" '")[0] or "kept" for group in report.chosen for synonym in group[1:])
        renamed = sum(new != old for new, old in zip(frequent_names(report), labels.names, strict=True))
        print(f"{kind} names: {renamed} of {len(labels)} classes renamed; candidates: {dict(fate)}")


if __name__ == "__main__":
    main()
