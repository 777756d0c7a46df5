"""What earlier runs have encoded, and a job need not encode again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rag_clip.classifiers.zero_shot import encoded_before
from rag_clip.data import Prompts
from rag_clip.protocols import Encoder
from rag_clip.store import Store, open_store
from rag_clip.store.stored_vectors import stored_vectors


@dataclass(frozen=True, slots=True)
class Reuse:
    """What earlier runs have encoded: the captions of an `index`, and images in `features_dir`, which is filled too.

    `index` is the one that the prompts came from: a folder, a server's address, or an open store. Its vectors are
    rounded (see `stored_vectors`), and so are the class weights of prompts that quote its captions.
    """

    index: Store | str | Path | None = None
    features_dir: str | Path | None = None

    @property
    def place(self) -> str | None:
        """The folder or address of the index, None without one."""
        return self.index.location if isinstance(self.index, Store) else None if self.index is None else str(self.index)

    def vectors(self, variants: Sequence[Prompts], encoder: Encoder) -> Mapping[str, np.ndarray] | None:
        """Return the vectors [d] that the index has of texts of prompts, by text; None without an index.

        None too where all texts were encoded before, whose exact vectors come with the prompts (`Prompts.encoded`).
        """
        if self.place is None:
            return None
        before = encoded_before(variants, encoder)
        if all(text.text in before for prompts in variants for group in prompts.texts for text in group):
            return None
        with open_store(self.place) as store:
            return stored_vectors(variants, store, encoder=encoder.fingerprint)


NOTHING = Reuse()
