"""The query layer: from class names to weighted texts, with the captions that a store holds for each class."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from rag_clip.data import Hit, LabelSet, Prompts
from rag_clip.progress import Report, StageClock, silent
from rag_clip.prompts.control import random_prompts
from rag_clip.prompts.mixed import mix
from rag_clip.prompts.templates import choose_templates, template_prompts
from rag_clip.protocols import Encoder
from rag_clip.retrieval import Retrieval, Search, gather
from rag_clip.store import Store

Method = Literal["templates", "retrieved", "random"]
LARGEST_SAMPLE = 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How to enhance: templates, the seed of the control, and the fields of Retrieval, which explains them."""

    templates: tuple[str, ...] | None = None
    weight: float = 0.25
    limit: int = 100
    search: Search = "hybrid"
    candidates: int = 1000
    keep: str = "token"
    names: str = "kept"
    query: str = "a photo of a {}."
    seed: int = 0

    def __post_init__(self) -> None:
        self.retrieval()

    def retrieval(self) -> Retrieval:
        """Return the settings of the retrieval."""
        return Retrieval(
            weight=self.weight,
            limit=self.limit,
            search=self.search,
            candidates=self.candidates,
            keep=self.keep,
            names=self.names,
            query=self.query,
        )


def enhance(
    labels: LabelSet,
    *,
    encoder: Encoder,
    store: Store | None = None,
    method: Method = "retrieved",
    settings: Settings | None = None,
    clock: StageClock | None = None,
    report: Report = silent,
) -> Prompts:
    """Turn a label set into prompts: its templates alone, with retrieved captions, or with random ones (the control).

    Raises ValueError for an unknown method, a method that needs a store and has none, a store without captions, and
    a store whose vectors are another encoder's (lexical search needs none, so there any store will do).
    """
    settings = settings or Settings()
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}; known are {', '.join(get_args(Method))}")
    if method == "templates":
        return _signed(template_prompts(labels, templates=settings.templates), encoder)
    if store is None:
        raise ValueError(f"method {method!r} retrieves captions and needs an index; give one, or use 'templates'")
    clock, retrieval = clock or StageClock(), settings.retrieval()
    anchors = template_prompts(labels, templates=settings.templates)
    contexts = gather(labels, encoder=encoder, store=store, retrieval=retrieval, clock=clock, report=report)
    recorded = {"templates": list(choose_templates(labels, settings.templates)), **asdict(retrieval)}
    facts = {"method": "retrieved", "settings": recorded, "without_captions": sum(not found for found in contexts)}
    prompts = replace(mix(anchors, contexts), provenance={**anchors.provenance, **facts})
    if method == "random":
        with clock.stage("sample"):
            prompts = random_prompts(prompts, _sample(prompts, store, settings.seed), seed=settings.seed)
    return _signed(prompts, encoder, index=store.location)


def _sample(prompts: Prompts, store: Store, seed: int) -> list[Hit]:
    needed = sum(text.role == "context" for group in prompts.texts for text in group)
    return store.sample(min(needed, LARGEST_SAMPLE, store.count()), seed) if needed else []


def _signed(prompts: Prompts, encoder: Encoder, index: str = "") -> Prompts:
    signature = {"encoder": asdict(encoder.fingerprint), "index": index}
    return replace(prompts, provenance={**prompts.provenance, **signature})
