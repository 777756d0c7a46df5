"""Candidate names: where they are read from, which are names of the classes, and how they are encoded."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from inputs.tasks import Counting
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet
from rag_clip.evaluation.rival_names import (
    Candidates,
    CandidateTexts,
    Rivals,
    read_candidates,
    rivals_of,
    with_synonyms,
)
from rag_clip.files.labels import write_labels
from rag_clip.pipelines.captions import build_index
from rag_clip.progress import ProgressEvent
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import ToyEncoder

CAPTIONS = ["a red fox", "the red fox in snow", "fresh snow"]
FREQUENT = ("fox", "red", "red fox", "snow", "fox in snow", "fresh", "fresh snow", "red fox in snow")


def captions(path: Path) -> Path:
    pq.write_table(pa.table({"caption": CAPTIONS}), path)
    return path


def test_a_word_list_has_a_name_a_line_and_each_once(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("\ufeffCrème brûlée\n\nred-fox\n creme brulee \nRed fox\nowl\n", encoding="utf-8")
    assert read_candidates(path) == Candidates(str(path), ("Crème brûlée", "red-fox", "owl"))


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_label_file_gives_its_names(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    write_labels(LabelSet(("fox", "owl"), synonyms=(("vixen",), ())), path)
    assert read_candidates(path).names == ("fox", "owl")


def test_captions_of_a_file_and_of_an_index_give_the_same_frequent_phrases(tmp_path: Path) -> None:
    corpus, events = captions(tmp_path / "corpus.parquet"), list[ProgressEvent]()
    build_index([corpus], index=tmp_path / "index", encoder=ToyEncoder())
    of_file, of_index = read_candidates(corpus), read_candidates(tmp_path / "index", report=events.append)
    assert of_file.names[:4] == FREQUENT[:4]
    assert set(of_file.names) == set(of_index.names) == set(FREQUENT[:7])
    assert read_candidates(corpus, phrases=2).names == FREQUENT[:2]
    assert events == [ProgressEvent("count phrases", 3, 3, "captions")]


def test_names_of_the_classes_are_left_out_whatever_their_case_accents_and_plurals() -> None:
    names = ("foxes", "Fox", "red owl", "pâté", "bus", "buses", "St Bernard dogs", "glass", "vixens", "owl")
    labels = LabelSet(("fox", "Pate", "Buses", "St. Bernard dog", "glasses"), synonyms=(("vixen",), (), (), (), ()))
    found = Candidates("words.txt", names)
    assert rivals_of(labels, found) == Rivals((2, 9), ("", ""))
    with pytest.raises(ValueError, match=r"words\.txt has no names except those of the classes; give others"):
        rivals_of(LabelSet((*labels.names, "owl", "red owl"), synonyms=(*labels.synonyms, (), ())), found)


def test_a_name_that_holds_that_of_a_class_speaks_of_it_and_one_of_several_is_left_out() -> None:
    labels = LabelSet(("fox", "polar bear"), synonyms=(("vixen",), ()))
    names = ("red fox", "old Vixen", "fox and polar bear", "bear", "foxglove", "polar-bear cub")
    assert rivals_of(labels, Candidates("words.txt", names)) == Rivals(
        (0, 1, 3, 4, 5), ("fox", "fox", "", "", "polar bear")
    )


def test_synonyms_of_another_label_set_are_added_to_the_classes_they_are_of() -> None:
    labels = LabelSet(("fox", "owl"), synonyms=(("vixen",), ()))
    told = LabelSet(("owl", "fox", "elk"), synonyms=(("owlet",), ("tod", "vixen"), ("wapiti",)))
    assert with_synonyms(labels, told) == LabelSet(("fox", "owl"), synonyms=(("vixen", "tod"), ("owlet",)))


def test_candidates_are_encoded_as_classes_are_and_once_for_each_set_of_templates() -> None:
    encoder, templates, events = Counting(), ("a photo of a {}.", "many {}"), list[ProgressEvent]()
    texts = CandidateTexts(Candidates("words.txt", ("fox", "owl")), encoder, report=events.append)
    weights = texts.weights(templates)
    expected = zero_shot(template_prompts(LabelSet(("fox", "owl")), templates=templates), ToyEncoder()).weights
    assert torch.allclose(weights, expected, atol=1e-6)
    assert texts.weights(templates) is weights
    assert encoder.encoded == ["a photo of a fox.", "a photo of a owl.", "many fox", "many owl"]
    assert events == [ProgressEvent("candidates", done, 4, "texts") for done in (2, 4)]


def test_places_without_names_are_refused_with_what_to_do(tmp_path: Path) -> None:
    empty, torn = tmp_path / "empty.txt", tmp_path / "torn.txt"
    empty.write_text("\n ... \n")
    torn.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"empty\.txt has no names; give a word list, a label file, captions, or an"):
        read_candidates(empty)
    with pytest.raises(ValueError, match=r"torn\.txt is not UTF-8"):
        read_candidates(torn)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.txt; give a word list"):
        read_candidates(tmp_path / "gone.txt")
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"broken\.parquet"):
        read_candidates(tmp_path / "broken.parquet")
