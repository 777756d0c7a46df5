"""Captions against references: BLEU-4 and CIDEr, by pycocoevalcap, the code of the COCO captioning challenge.

    BLEU-4 = brevity * (p_1 p_2 p_3 p_4)^(1/4)     p_n: share of n-grams of all captions that a reference has, clipped
    CIDEr  = 10 mean_n mean_references cos(g_n(caption), g_n(reference))     g_n: tf-idf of n-grams, n = 1..4

Papineni et al., 2002; Vedantam et al., 2015 (arXiv 1411.5726), in the released form CIDEr-D, which clips and prefers
equal lengths. Words are those of `corpus/counts/tokens.py`; the challenge's own tokenizer needs Java and cuts a little
otherwise. The weights of CIDEr come from the references given, so its values of two sets of images do not compare.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
import polars as pl

from rag_clip.corpus.counts.tokens import words_of


@dataclass(frozen=True, slots=True, eq=False)
class Captioning:
    """How well captions agree with references.

    bleu4: of all captions together, 0 to 1.
    cider: of each caption, float64 [n], 0 to 10.
    """

    bleu4: float
    cider: np.ndarray


def captioning(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Captioning:
    """Compare n captions, one an image, with the references of their images.

    Raises ValueError for another number of references, an image without any, and fewer than two images, since CIDEr
    weighs words by how few images have them; ImportError without the extra `captioning`.
    """
    if len(captions) != len(references) or len(captions) < 2:
        raise ValueError(
            f"there are {len(captions)} captions and the references of {len(references)} images; give at least two, "
            "with one caption each"
        )
    if (bare := next((row for row, texts in enumerate(references) if not texts), None)) is not None:
        raise ValueError(f"image {bare} has no reference; leave it out")
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
    except ImportError as error:
        raise ImportError("captions are compared by pycocoevalcap; pip install 'rag-clip[captioning]'") from error
    written = {row: [text] for row, text in enumerate(_spaced(captions))}
    texts = iter(_spaced([text for group in references for text in group]))
    wanted = {row: [next(texts) for _ in group] for row, group in enumerate(references)}
    with redirect_stdout(io.StringIO()):  # it prints what it returns
        bleu, _ = Bleu(4).compute_score(wanted, written)
        _, cider = Cider().compute_score(wanted, written)
    return Captioning(float(bleu[3]), np.asarray(cider, dtype=np.float64))


def _spaced(texts: Sequence[str]) -> list[str]:
    """Return texts as words with a space between."""
    rows: list[list[str]] = [[] for _ in texts]
    for row, word in words_of(pl.Series(list(texts), dtype=pl.String)).iter_rows():
        rows[row].append(word)
    return [" ".join(words) for words in rows]
