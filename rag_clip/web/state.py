"""What the requests share: the served folder, the worker of the model, prompts, open indexes and uploaded pictures."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rag_clip.data import Hit, Prompts
from rag_clip.errors import RagClipError
from rag_clip.models.decode import image_size
from rag_clip.pipelines.explain import Explanation, explain
from rag_clip.pipelines.search import needs_encoder
from rag_clip.progress import silent
from rag_clip.store import Store, open_store
from rag_clip.store.queries import Mode, Query, embed_queries, search
from rag_clip.web.edits import edited
from rag_clip.web.rows import image_of
from rag_clip.web.served import Served
from rag_clip.web.worker import PromptFiles, Worker

MOST_UPLOADS = 32
MOST_IMAGE_BYTES = 16 << 20
FOLDED = 200  # results read, so that near copies can be folded


class UploadError(RagClipError, ValueError):
    """An uploaded picture that is too large, or no longer kept."""


class State:
    """The state of one service; all of it can be made again from the folder, but uploads."""

    def __init__(self, root: Path, *, model: str | None = None, index: str | None = None) -> None:
        self.served = Served(root.resolve(strict=True))
        self.worker = Worker(model)
        self.prompts = PromptFiles()
        self.index = index
        self._stores: dict[str, Store] = {}
        self._opening = threading.Lock()
        self._searching = threading.Lock()
        self._uploads: OrderedDict[str, bytes] = OrderedDict()

    def indexes(self) -> list[str]:
        """List the indexes that can be searched."""
        return [*([self.index] if self.index else []), *self.served.of_kind("index")]

    def store(self, name: str) -> Store:
        """Open an index of the folder, or the one that was named at the start, once."""
        with self._opening:
            if name not in self._stores:
                place = name if name == self.index else self.served.find(name)
                self._stores[name] = open_store(place)
            return self._stores[name]

    def close(self) -> None:
        """Close the indexes."""
        with self._searching:
            for store in self._stores.values():
                store.close()
            self._stores.clear()

    def keep(self, image: bytes) -> str:
        """Check an uploaded picture by its header, keep it, and return its id; raises UploadError and ImageError."""
        if len(image) > MOST_IMAGE_BYTES:
            raise UploadError(f"the picture has {len(image) >> 20} MiB; at most {MOST_IMAGE_BYTES >> 20} are taken")
        image_size(image)
        name = hashlib.sha256(image).hexdigest()[:32]
        self._uploads[name] = image
        while len(self._uploads) > MOST_UPLOADS:
            self._uploads.popitem(last=False)
        return name

    def upload(self, name: str) -> bytes:
        """Return a kept picture; raises UploadError if it is kept no longer."""
        if name not in self._uploads:
            raise UploadError("the picture is kept no longer; upload it again")
        return self._uploads[name]

    def picture(self, *, file: str = "", row: int | None = None, upload: str = "") -> bytes | None:
        """Return an uploaded picture, or the one in a row of a file; None if neither is named."""
        if upload:
            return self.upload(upload)
        return None if not file or row is None else image_of(self.served.find(file), row, root=self.served.root)

    def picture_of(self, hit: Mapping[str, Any], index: str) -> tuple[str, int] | None:
        """Return the file and row of the picture that a result has in the served folder; None if it has none there."""
        beside = self.served.root if index == self.index else self.served.find(index).parent
        return self.served.picture(str(hit.get("url", "")), beside)

    def search(
        self,
        name: str,
        *,
        text: str = "",
        minus: str = "",
        image: bytes | None = None,
        weight: float = 2.0,
        mode: Mode | None = None,
        limit: int = 30,
        offset: int = 0,
    ) -> list[dict[str, Any]]:
        """Search an index by a text, a picture or both, without what `minus` says, near copies folded.

        Each result has its id, score, text, source, further fields, and `copies`: how many near copies it stands for.
        """
        query = Query(text, image, weight)
        with self._searching:
            store = self.store(name)
            dense = (
                bool(minus) or needs_encoder([query], mode, None) or (mode is None and self.worker.model is not None)
            )
            most = min(FOLDED, 4 * (offset + limit))
            if not dense:
                found = search([query], store=store, mode=mode, limit=most)[0]
            else:
                recorded = asdict(store.card.encoder)
                encoder = self.worker.encoder(recorded)
                if minus:
                    vectors = self.worker.call(lambda: embed_queries([query, Query(minus)], encoder)).cpu()
                    unlike = torch.nn.functional.normalize(vectors[0] - 0.5 * vectors[1], dim=0)[None].numpy()
                    using = store.card.schema.pick_vector(None)
                    found = store.search(vectors=unlike, mode="dense", limit=most, vector=using)[0]
                else:
                    found = self.worker.call(
                        lambda: search([query], store=store, encoder=encoder, mode=mode, limit=most)
                    )[0]
            return _results(store, found, slice(offset, offset + limit))

    def sample(self, name: str, *, count: int = 24) -> list[dict[str, Any]]:
        """Return captions drawn from an index, the same ones every time, in the form of `search`."""
        with self._searching:
            store = self.store(name)
            return _results(store, store.sample(count, seed=0), slice(count))

    def explain(
        self, prompts: Prompts, image: bytes | None, *, label: str | None = None, without: Mapping[str, set[int]] = {}
    ) -> Explanation:
        """Explain the class of a picture, a class, or both, also as if some texts of classes were not there."""
        for name, places in without.items():
            prompts = edited(prompts, name, dict.fromkeys(places, 0.0))
        encoder_of = prompts.recorded.encoder

        def call() -> Explanation:
            encoder = self.worker.encoder(encoder_of)
            return explain(prompts, label, image=image, encoder=encoder, report=silent)

        explained: Explanation = self.worker.call(call)
        return explained

    def classify(self, file: str, images: list[bytes], *, top_k: int = 5) -> list[list[dict[str, Any]]]:
        """Return the best classes of each picture, by a prompts file, with their probabilities."""
        path = self.served.find(file)
        prompts = self.prompts.read(path)
        found = self.worker.classify(path, prompts, images, top_k=min(top_k, len(prompts.labels)))
        names = prompts.labels.names
        return [
            [{"label": names[number], "score": score} for number, score in zip(labels, scores, strict=True)]
            for labels, scores in zip(found.labels.tolist(), found.scores.tolist(), strict=True)
        ]


def _results(store: Store, found: Sequence[Hit], part: slice) -> list[dict[str, Any]]:
    hits = fold([{"id": hit.id, "score": hit.score, "text": hit.text, "source": hit.source} for hit in found])[part]
    more = store.payload([hit["id"] for hit in hits])
    return [{**hit, **more[hit["id"]]} for hit in hits]


def fold(hits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return results with those that differ in case, spaces and marks alone as one, which counts its `copies`."""
    kept: dict[str, dict[str, Any]] = {}
    for hit in hits:
        key = "".join(letter for letter in str(hit["text"]).casefold() if letter.isalnum()) or hit["id"]
        if key in kept:
            kept[key]["copies"] += 1
        else:
            kept[key] = {**hit, "copies": 0}
    return list(kept.values())


def without_texts(given: list[str]) -> dict[str, set[int]]:
    """Read LABEL:PLACE values, as links of the page have them; raises ValueError for others."""
    found: dict[str, set[int]] = {}
    for each in given:
        label, colon, place = each.rpartition(":")
        if not colon or not place.isdigit():
            raise ValueError(f"{each!r} does not name a text; give LABEL:PLACE")
        found.setdefault(label, set()).add(int(place))
    return found


def named(prompts: Prompts, *, changed: Mapping[str, Any]) -> Prompts:
    """Return prompts whose provenance says that a person edited them."""
    return replace(prompts, provenance={**prompts.provenance, "edited": dict(changed)})
