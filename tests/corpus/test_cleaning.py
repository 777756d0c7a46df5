from __future__ import annotations

import itertools

import polars as pl
import pyarrow as pa
import pytest

from rag_clip.corpus.cleaning import CleaningSettings, clean_with, load_cleaning, row_rules
from rag_clip.corpus.counts.statistics import count_corpus

TEXTS = [
    "golden retriever",
    "a <b>golden</b> retriever in the snow",
    "A golden retriever in the snow",
    "a golden retriever in the snow",
    None,
    "click to enlarge",
    "http://example.org",
    "red",
    "the odd aardvark in the snow",
    "a golden retriever in the cold white snow of the long winter that came to the hills behind our old stone house",
    "a small golden retriever",
]
WIDTHS = [300] * 10 + [90]
EVERY_RULE = CleaningSettings(
    languages=("en",),
    min_words=2,
    max_words=20,
    min_characters=2,
    max_characters=500,
    boilerplate=True,
    image_over=100,
    image_max_ratio=3,
    min_word_count=2,
    max_images=3,
    duplicates=True,
    near_duplicates=0.85,
)


def records(file="a"):
    sides = {"width": WIDTHS, "height": [300] * len(TEXTS)}
    origin = {"file": [file] * len(TEXTS), "row": range(len(TEXTS)), "language": ["en"] * len(TEXTS)}
    return pa.table({"text": TEXTS, **origin, **sides})


def counted(settings, tables, folder):
    return count_corpus(tables, folder, rules=row_rules(settings), near=settings.near_duplicates)


def reasons(settings, tables, folder):
    counts = counted(settings, tables, folder) if settings.needs_counts else None
    kept = clean_with(settings, counts=counts)(pa.concat_tables(tables))
    return dict(zip(kept.dropped["text"].to_pylist(), kept.reason, strict=True))


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("none", {None: "null", TEXTS[6]: "markup"}),
        ("default", {None: "null", TEXTS[5]: "boilerplate", TEXTS[6]: "markup"}),
        (
            "align",
            {
                None: "null",
                TEXTS[0]: "few_words",
                TEXTS[6]: "markup",
                TEXTS[7]: "few_words",
                TEXTS[9]: "many_words",
                TEXTS[10]: "image_small",
            },
        ),
        ("wukong", {None: "null", TEXTS[5]: "boilerplate", TEXTS[6]: "markup", TEXTS[10]: "image_small"}),
    ],
)
def test_presets_drop_what_they_say(tmp_path, preset, expected):
    assert reasons(load_cleaning(preset), [records()], tmp_path / "counts") == expected


def test_a_caption_shared_by_more_than_ten_images_is_dropped_by_align_and_wukong(tmp_path):
    tables = [records(f"file {number:02d}") for number in range(11)]
    for preset in ("align", "wukong"):
        assert reasons(load_cleaning(preset), tables, tmp_path / preset)[TEXTS[3]] == "shared"


def test_default_and_none_need_no_pass_over_the_corpus():
    presets = ("none", "default", "align", "wukong")
    assert {preset: load_cleaning(preset).needs_counts for preset in presets} == {
        "none": False,
        "default": False,
        "align": True,
        "wukong": True,
    }


def test_every_rule_together_gives_the_same_answer_in_one_batch_or_many(tmp_path):
    tables = [records("b"), records("a")]
    whole = pa.concat_tables(tables)
    step = clean_with(EVERY_RULE, counts=counted(EVERY_RULE, tables, tmp_path / "counts"))
    once = step(whole)
    for size in (1, 4):
        parts = [step(whole.slice(start, size)) for start in range(0, whole.num_rows, size)]
        assert pa.concat_tables([part.selected for part in parts]).equals(once.selected)
        assert pa.concat_tables([part.dropped for part in parts]).equals(once.dropped)
        assert tuple(itertools.chain(*(part.reason for part in parts))) == once.reason
    assert once.selected.num_rows + once.dropped.num_rows == whole.num_rows
    assert len(once.reason) == len(once.score) == once.dropped.num_rows


def test_the_first_of_equal_captions_is_one_that_the_other_rules_keep(tmp_path):
    settings = CleaningSettings(duplicates=True, image_over=100)
    table = pa.table(
        {"text": ["flag"] * 3, "file": ["a"] * 3, "row": range(3), "width": [50, 500, 500], "height": [500] * 3}
    )
    kept = clean_with(settings, counts=counted(settings, [table], tmp_path / "counts"))(table)
    assert kept.selected["row"].to_pylist() == [1]
    assert kept.reason == ("image_small", "duplicate")


def test_a_rule_over_the_corpus_without_its_counts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="need counts of the whole corpus; make them with count_corpus"):
        clean_with(load_cleaning("align"))
    counts = count_corpus([], tmp_path / "counts")
    with pytest.raises(ValueError, match="near duplicates were not counted; give count_corpus near="):
        clean_with(CleaningSettings(near_duplicates=0.9), counts=counts)


def test_a_file_of_ones_own_is_read_and_its_faults_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[mild]\nmin_words = 2\n[wrong]\nmin_word = 2\nmax_words = 0\n")
    assert load_cleaning("mild", path) == CleaningSettings(min_words=2)
    with pytest.raises(
        ValueError,
        match=r"preset wrong: max_words is 0; give a number of at least 1; also unknown key 'min_word'; did",
    ):
        load_cleaning("wrong", path)
    with pytest.raises(ValueError, match="has no preset 'default'; it has mild, wrong"):
        load_cleaning("default", path)
    path.write_text("[mild\n")
    with pytest.raises(ValueError, match=r"mine.toml is not valid TOML"):
        load_cleaning("mild", path)


def test_the_vocabulary_of_align_drops_what_is_rarer_than_its_last_ngram(tmp_path):
    table = pa.table({"text": ["red flag"] * 3 + ["red kite"], "file": ["a"] * 4, "row": range(4)})
    settings = CleaningSettings(vocabulary=3)  # red 4; flag, "red flag" 3; kite, "red kite" 1
    kept = clean_with(settings, counts=counted(settings, [table], tmp_path / "counts"))(table)
    assert (kept.dropped["text"].to_pylist(), kept.score) == (["red kite"], (2.0,))
    assert pl.Series(kept.selected["text"]).to_list() == ["red flag"] * 3
