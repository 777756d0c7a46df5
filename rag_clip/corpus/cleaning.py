"""Which captions of a corpus to keep: settings, their presets in index/cleaning.toml, and the chain of steps.

Every chain begins with the repairs of `clean.py`. Rules on single rows come first, then rules that need counts of the
whole corpus. The result does not depend on the batches or their order.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from rag_clip.corpus.boilerplate import boilerplate
from rag_clip.corpus.clean import clean
from rag_clip.corpus.counts.on_disk import MappedColumns
from rag_clip.corpus.counts.repeats import TEXTS, TEXTS_FOLDER
from rag_clip.corpus.counts.statistics import CorpusCounts
from rag_clip.corpus.crowded_images import crowded_images
from rag_clip.corpus.duplicates import duplicates
from rag_clip.corpus.image_size import image_size
from rag_clip.corpus.language import language
from rag_clip.corpus.length import length
from rag_clip.corpus.near_duplicates import near_duplicates
from rag_clip.corpus.rare_tokens import rare_tokens
from rag_clip.corpus.shared_captions import shared_captions
from rag_clip.corpus.steps import Step, chain
from rag_clip.files.reading import read_toml
from rag_clip.files.settings import check_settings


class CleaningSettings(BaseModel):
    """Thresholds of the cleaning steps.

    A step without its threshold is off; repairs are always on. docs/schemas.md explains each setting.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    languages: tuple[str, ...] = ()
    min_words: int = Field(default=0, ge=0)
    max_words: int | None = Field(default=None, ge=1)
    min_characters: int = Field(default=0, ge=0)
    max_characters: int | None = Field(default=None, ge=1)
    boilerplate: bool = False
    image_over: int = Field(default=0, ge=0)
    image_max_ratio: float | None = Field(default=None, ge=1)
    max_texts: int | None = Field(default=None, ge=1)
    vocabulary: int | None = Field(default=None, ge=1)
    min_word_count: int = Field(default=1, ge=1)
    max_images: int | None = Field(default=None, ge=1)
    duplicates: bool = False
    near_duplicates: float | None = Field(default=None, gt=0, lt=1)

    @property
    def needs_counts(self) -> bool:
        """Whether a rule needs counts of the whole corpus, that is, a first pass with `count_corpus`."""
        return bool(self.corpus_rules)

    @property
    def corpus_rules(self) -> tuple[str, ...]:
        """The active settings that need counts of the whole corpus."""
        names = ("max_texts", "vocabulary", "min_word_count", "max_images", "duplicates", "near_duplicates")
        return tuple(name for name in names if getattr(self, name) != type(self).model_fields[name].default)


def load_cleaning(preset: str = "default", path: str | Path | None = None) -> CleaningSettings:
    """Read a preset from a cleaning file, by default the bundled index/cleaning.toml.

    Raises ValueError for a preset that is not in the file, unknown keys and wrong values.
    """
    source = Path(path) if path is not None else Path(str(files("rag_clip.index").joinpath("cleaning.toml")))
    presets = read_toml(source)
    if not isinstance(presets.get(preset), dict):
        raise ValueError(f"{source} has no preset {preset!r}; it has {', '.join(presets)}")
    try:
        return check_settings(CleaningSettings, presets[preset])
    except ValueError as error:
        raise ValueError(f"{source}, preset {preset}: {error}") from None


def row_rules(settings: CleaningSettings) -> Step:
    """Return the steps that decide on single rows: repairs, language, length, boilerplate, image size."""
    steps: list[Step] = [clean]
    if settings.languages:
        steps.append(language(settings.languages))
    bounds = settings.model_dump(include={"min_words", "max_words", "min_characters", "max_characters"})
    if any(bounds.values()):
        steps.append(length(**bounds))
    if settings.boilerplate:
        steps.append(boilerplate())
    if settings.image_over or settings.image_max_ratio is not None:
        steps.append(image_size(over=settings.image_over, max_ratio=settings.image_max_ratio or float("inf")))
    return chain(steps)


def clean_with(settings: CleaningSettings, *, counts: CorpusCounts | None = None) -> Step:
    """Return the whole chain: rules on single rows, then rules on the corpus.

    The latter are crowded images, rare tokens, shared captions, duplicates and near duplicates, in this order.
    `counts` are those of the whole corpus, from `count_corpus(..., rules=row_rules(settings),
    near=settings.near_duplicates)`. Raises ValueError where the settings need counts and none are given.
    """
    if not settings.needs_counts:
        return row_rules(settings)
    if counts is None:
        raise ValueError("these cleaning settings need counts of the whole corpus; make them with count_corpus")
    return chain([row_rules(settings), *_corpus_rules(settings, counts)])


def _corpus_rules(settings: CleaningSettings, counts: CorpusCounts) -> list[Step]:
    steps: list[Step] = []
    if settings.max_texts is not None:
        texts = MappedColumns(counts.repeats.folder / TEXTS_FOLDER, TEXTS)
        steps.append(crowded_images(texts, max_texts=settings.max_texts))
    common = counts.least_count(settings.vocabulary) if settings.vocabulary is not None else 1
    least = max(common, settings.min_word_count)
    if least > 1:
        bigrams = counts.frequent(2, least=common) if common > 1 else None
        steps.append(rare_tokens(unigrams=counts.frequent(1, least=least), bigrams=bigrams))
    if settings.max_images is not None:
        steps.append(shared_captions(counts.repeats, max_images=settings.max_images))
    if settings.duplicates:
        steps.append(duplicates(counts.repeats, counts.places))
    if settings.near_duplicates is not None:
        if counts.later is None:
            raise ValueError("near duplicates were not counted; give count_corpus near=settings.near_duplicates")
        steps.append(near_duplicates(counts.later, counts.places))
    return steps
