"""What each part of retrieval is worth, on the demo's validation photographs.

    python tests/benchmarks/recipes.py [--full]

Top-1 in percent for head / tail / unseen / all: the templates, RePE as published, the default recipe built up from it
part by part, and the default recipe without each part; its random control; and the ceiling, the mean of eight
descriptions without a name. `--full` adds constants around the chosen ones, and what was tried and is not built.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.nn.functional import normalize

from rag_clip.classifiers.zero_shot import ZeroShot, zero_shots
from rag_clip.data import Features, Hit, LabelSet, Prompts, PromptText
from rag_clip.demo.captions import describe
from rag_clip.demo.concepts import BANDS, concepts
from rag_clip.files.labels import read_labels
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.captions import build_index
from rag_clip.prompts.control import random_prompts
from rag_clip.prompts.evidence import gather
from rag_clip.prompts.mixed import mix
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.prompts.templates import template_prompts
from rag_clip.protocols import Encoder
from rag_clip.store import open_store

ASSETS = Path(str(files("rag_clip.demo"))) / "assets"
PUBLISHED = Retrieval(search="dense")
CHOSEN = Retrieval(weight=0.95, limit=200, keep="phrase", names="dropped", contrast="weigh", trust="evidence")
STEPS: Mapping[str, Mapping[str, Any]] = {
    "hybrid search": {"search": "hybrid"},
    "whole-name filter": {"keep": "phrase"},
    "names left out": {"names": "dropped"},
    "200 captions": {"limit": 200},
    "weight 0.95": {"weight": 0.95},
    "contrast": {"contrast": "weigh"},
    "trust: the default recipe": {"trust": "evidence"},
}
WITHOUT: Mapping[str, Mapping[str, Any]] = {
    "dense search": {"search": "dense"},
    "lexical search": {"search": "lexical"},
    "token filter": {"keep": "token"},
    "names kept": {"names": "kept"},
    "100 captions": {"limit": 100},
    "no contrast": {"contrast": "none"},
    "no contrast, token filter": {"contrast": "none", "keep": "token"},
    "contrast by name alone": {"contrast": "drop"},
    "contrast by name alone, token filter": {"contrast": "drop", "keep": "token"},
    "no trust": {"trust": "equal"},
}
AROUND: dict[str, dict[str, Any]] = {
    f"weight {weight:g}": {"weight": weight} for weight in (0.25, 0.5, 0.75, 0.9, 0.97, 1)
}


class Remembering:
    """An encoder and a store that do nothing twice, so that variants cost what they differ in."""

    def __init__(self, part: Any) -> None:
        self._part, self._known = part, dict[Any, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode the texts that are new."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._part.encode_text(new) if new else (), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def search(self, *, texts: Sequence[str] | None, vectors: np.ndarray | None, **options: Any) -> list[list[Hit]]:
        """Search for what is new."""
        key = (tuple(texts or ()), None if vectors is None else vectors.tobytes(), str(options))
        if key not in self._known:
            self._known[key] = self._part.search(texts=texts, vectors=vectors, **options)
        hits: list[list[Hit]] = self._known[key]
        return hits


def main() -> None:
    """Index the bundled corpus in a temporary folder, try every recipe, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    full = parser.parse_args().full
    encoder, labels = Remembering(load_encoder("demo", device="cpu")), read_labels(ASSETS / "labels.json")
    table = pq.read_table(ASSETS / "validation.parquet", columns=["image", "label"])
    images, truth = encoder.encode_images(table["image"].to_pylist()), table["label"].to_pylist()
    show("ceiling: descriptions", described(encoder), images, truth)
    with tempfile.TemporaryDirectory() as folder:
        build_index([ASSETS / "corpus.parquet"], index=Path(folder) / "index", encoder=encoder)
        with open_store(Path(folder) / "index", encoder=encoder.fingerprint) as store:
            for name, prompts in variants(labels, encoder, Remembering(store), full=full):
                show(name, zero_shots([prompts], encoder)[0], images, truth)


def variants(labels: LabelSet, encoder: Encoder, store: Any, *, full: bool) -> Any:
    """Yield the name and the prompts of each row of the table."""
    anchors = template_prompts(labels)

    def ask(retrieval: Retrieval) -> Prompts:
        return mix(anchors, gather(labels, encoder=encoder, store=store, retrieval=retrieval))

    yield "templates", anchors
    yield "RePE as published", ask(PUBLISHED)
    built = PUBLISHED
    for name, change in STEPS.items():
        built = replace(built, **change)
        yield f"+ {name}", ask(built)
    chosen = ask(CHOSEN)
    needed = max(sum(text.role == "context" for text in group) for group in chosen.texts)
    yield "random control of the default recipe", random_prompts(chosen, store.sample(10 * needed, 0), seed=0)
    for name, change in ({**WITHOUT, **AROUND} if full else WITHOUT).items():
        yield f"default recipe, but {name}", ask(replace(CHOSEN, **change))
    if full:
        for weight in (0.25, 0.9):
            plain = replace(CHOSEN, weight=weight, contrast="none", trust="equal")
            yield f"not built: none of these, weight {weight:g}", ask(plain)
            yield from not_built(ask(plain), ask(replace(plain, limit=1000)), encoder, weight)


def not_built(plain: Prompts, wide: Prompts, encoder: Encoder, weight: float) -> Any:
    """Yield what was tried on the captions of `plain` and lost: each takes the texts of a class and gives new ones."""
    queries = encoder.encode_text([f"a photo of a {name}." for name in plain.labels.names])
    rows = range(len(plain.labels))
    for least in (1.0, 0.8):
        texts = [collapse(contexts(wide, row), least)[: CHOSEN.limit] for row in rows]
        yield f"not built: token sets alike by {least:g} collapsed, {weight:g}", again(plain, texts, weight)
    for limit in (20, 50):
        first = [contexts(plain, row)[:limit] for row in rows]
        yield f"not built: the first {limit}, {weight:g}", again(plain, first, weight)
        spread = [diverse(contexts(plain, row), queries[row], encoder, limit) for row in rows]
        yield f"not built: MMR {limit}, {weight:g}", again(plain, spread, weight)
    for least in (0.0, 0.2):
        near = [[text for text, like in likeness(plain, row, queries, encoder) if like >= least] for row in rows]
        yield f"not built: least cosine {least:g}, {weight:g}", again(plain, near, weight)
    soft = [
        [
            replace(text, weight=float(np.exp(encoder.scale * like)))
            for text, like in likeness(plain, r, queries, encoder)
        ]
        for r in rows
    ]
    yield f"not built: soft weights by cosine, {weight:g}", again(plain, soft, weight)


def contexts(prompts: Prompts, row: int) -> list[PromptText]:
    """Return the captions of a class."""
    return [text for text in prompts.texts[row] if text.role == "context"]


def again(prompts: Prompts, texts: Sequence[Sequence[PromptText]], weight: float) -> Prompts:
    """Put other captions in the place of those of each class, sharing `weight` in proportion to their weights."""
    wholes = [sum(text.weight for text in group) for group in texts]
    shared = tuple(
        tuple(replace(text, weight=weight * text.weight / whole) for text in group)
        for group, whole in zip(texts, wholes, strict=True)
    )
    return mix(template_prompts(prompts.labels), shared)


def collapse(texts: Sequence[PromptText], least: float) -> list[PromptText]:
    """Keep the first of captions whose sets of words have at least this Jaccard similarity."""
    kept: dict[frozenset[str], PromptText] = {}
    for text in texts:
        words = frozenset(re.findall(r"\w+", text.text.lower()))
        if all(len(words & other) < least * len(words | other) for other in kept):
            kept[words] = text
    return list(kept.values())


def diverse(texts: Sequence[PromptText], query: torch.Tensor, encoder: Encoder, limit: int) -> list[PromptText]:
    """Choose by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), halves of both."""
    if not texts:
        return []
    vectors = encoder.encode_text([text.text for text in texts])
    relevance, chosen = vectors @ query, [int((vectors @ query).argmax())]
    while len(chosen) < min(limit, len(texts)):
        gain = 0.5 * relevance - 0.5 * (vectors @ vectors[chosen].T).amax(1)
        gain[chosen] = -torch.inf
        chosen.append(int(gain.argmax()))
    return [texts[row] for row in chosen]


def likeness(prompts: Prompts, row: int, queries: torch.Tensor, encoder: Encoder) -> list[tuple[PromptText, float]]:
    """Return the captions of a class with their cosines to its query."""
    texts = contexts(prompts, row)
    vectors = encoder.encode_text([text.text for text in texts]) if texts else queries[:0]
    return list(zip(texts, (vectors @ queries[row]).tolist(), strict=True))


def described(encoder: Encoder) -> ZeroShot:
    """Average eight descriptions of each concept, none of which names it."""
    draw = np.random.default_rng(0)
    texts = [describe(concept.design, draw) for concept in concepts() for _ in range(8)]
    means = encoder.encode_text(texts).view(len(concepts()), 8, -1).mean(1)
    return ZeroShot(read_labels(ASSETS / "labels.json"), normalize(means, dim=-1), encoder.scale)


def show(name: str, classifier: ZeroShot, images: Features, truth: list[str]) -> None:
    """Print the accuracy per band and over all."""
    band = {concept.name: concept.band for concept in concepts()}
    found = [classifier.labels.names[row] for row in classifier(images).argmax(1).tolist()]
    right = torch.tensor([one == other for one, other in zip(found, truth, strict=True)]).float()
    bands = np.array([band[label] for label in truth])
    cells = [right[torch.from_numpy(bands == band)].mean() for band in BANDS] + [right.mean()]
    print(f"{name:<66}" + " / ".join(f"{100 * float(cell):.1f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
