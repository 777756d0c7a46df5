"""Search an index by text, image or both, over the vectors of captions or images, or by words.

An image and a text make one query as in ALIGN (Jia et al., ICML 2021, arXiv 2102.05918, section 5.3):

    q = normalise( x + w * t )

with x and t the unit vectors of image and text. By default w = 2; a negative w searches for images like x but unlike
the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rag_clip.data import Hit
from rag_clip.store import Store
from rag_clip.store.card import check_encoder

if TYPE_CHECKING:
    import torch

    from rag_clip.protocols import Encoder

TEXT_WEIGHT = 2.0
Mode = Literal["dense", "lexical", "hybrid"]


@dataclass(frozen=True, slots=True)
class Query:
    """A query: a text, the bytes of an image file, or both, with `weight` for the text.

    Raises ValueError where both are missing, and for a weight that is not finite.
    """

    text: str = ""
    image: bytes | None = None
    weight: float = TEXT_WEIGHT

    def __post_init__(self) -> None:
        if not self.text.strip() and self.image is None:
            raise ValueError("the query is empty; give a text, an image, or both")
        if not math.isfinite(self.weight):
            raise ValueError(f"the weight of the text is {self.weight}; give a finite number")


def search(
    queries: Sequence[Query],
    *,
    store: Store,
    encoder: Encoder | None = None,
    mode: Mode | None = None,
    over: Literal["text", "image"] | None = None,
    limit: int = 10,
    where: Mapping[str, Any] | None = None,
) -> list[list[Hit]]:
    """Return at most `limit` hits for each query, best first, with the scores of `Store.search`.

    queries: what to search for.
    store: the index.
    encoder: the one that the index was built with; not needed for lexical search.
    mode: by default `dense` with an encoder, else `lexical`; `hybrid` fuses both.
    over: vectors to compare with, by default the index's own default.
    limit: hits per query.
    where: filter by payload, as in `Store.search`.

    Raises ValueError for an empty index, dense search without an encoder or with another one than the index's, an
    index without the requested vectors, and lexical search with an image.
    """
    mode = mode or ("dense" if encoder else "lexical")
    if store.count() == 0:
        raise ValueError(f"the index at {store.location} holds no captions; build it first")
    if mode != "dense":
        _check_words(queries, mode)
    if mode == "lexical" and over == "image":
        raise ValueError("lexical search ranks captions by their words; to search over images, give an encoder")
    texts = None if mode == "dense" else [query.text for query in queries]
    if mode == "lexical":
        return store.search(texts=texts, mode=mode, limit=limit, where=where)
    vector = _pick_vector(store, over)
    if encoder is None:
        raise ValueError(f"{mode} search compares vectors and needs the encoder of the index; or use lexical search")
    check_encoder(store.card, encoder.fingerprint, store.location, of_images=vector == "image")
    vectors = embed_queries(queries, encoder).cpu().numpy()
    return store.search(texts=texts, vectors=vectors, mode=mode, limit=limit, where=where, vector=vector)


def embed_queries(queries: Sequence[Query], encoder: Encoder) -> torch.Tensor:
    """Embed queries as float32 unit rows [q, d]: t, x, or normalise(x + w t); equal inputs are encoded once.

    Raises ValueError for an image that cannot be decoded, and where image and text cancel out.
    """
    import torch  # words are searched for without it

    texts = list(dict.fromkeys(query.text for query in queries if query.text.strip()))
    images = list(dict.fromkeys(query.image for query in queries if query.image is not None))
    of_text = dict(zip(texts, encoder.encode_text(texts).float(), strict=True)) if texts else {}
    of_image = dict(zip(images, encoder.encode_images(images).pooled.float(), strict=True)) if images else {}
    return torch.stack([_compose(query, of_text, of_image) for query in queries])


def _compose(query: Query, of_text: Mapping[str, torch.Tensor], of_image: Mapping[bytes, torch.Tensor]) -> torch.Tensor:
    if query.image is None:
        return of_text[query.text]
    if query.text not in of_text:
        return of_image[query.image]
    mixed = of_image[query.image] + query.weight * of_text[query.text]
    length = mixed.norm()
    if float(length) < 1e-6:
        raise ValueError(f"image and text {query.text!r} cancel out at weight {query.weight}; choose another weight")
    unit: torch.Tensor = mixed / length
    return unit


def _check_words(queries: Sequence[Query], mode: Mode) -> None:
    if not all(query.text.strip() for query in queries):
        raise ValueError(f"{mode} search ranks by words, and an image has none; add a text, or use dense search")


def _pick_vector(store: Store, over: str | None) -> str:
    names = [vector.name for vector in store.card.schema.vectors]
    if over is not None and over not in names:
        hint = "; make an index of images with: rag-clip index images" if over == "image" else ""
        raise ValueError(f"the index at {store.location} has no vectors of {over}s, only {', '.join(names)}{hint}")
    return store.card.schema.pick_vector(over)
