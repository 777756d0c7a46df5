from __future__ import annotations

import pytest

from rag_clip.data import LabelSet
from rag_clip.prompts.knowledge.candidates import gather_candidates
from rag_clip.prompts.knowledge.wordnet import Sense

SENSES = {
    "lynx": (Sense(("catamount",), "a wild cat"),),
    "crane": (Sense(("derrick", "hoist"), "a machine"), Sense(("wading bird",), "a bird"), Sense((), "a poet")),
}


def senses(name: str) -> tuple[Sense, ...]:
    return SENSES.get(name, ())


def test_candidates_come_from_the_label_file_the_files_and_wordnet_in_this_order():
    labels = LabelSet(("lynx", "maine coon"), synonyms=(("bobcat",), ()))
    files = {"real.json": {"Maine_Coon": ("shag",), "LYNX": ("Lynx rufus", "bobcat"), "okapi": ("forest giraffe",)}}
    assert gather_candidates(labels, files=files, senses=senses) == (
        (("bobcat", "label file"), ("Lynx rufus", "real.json"), ("bobcat", "real.json"), ("catamount", "wordnet")),
        (("shag", "real.json"),),
    )


def test_a_name_of_several_senses_takes_no_synonyms_from_wordnet():
    assert gather_candidates(LabelSet(("crane",)), senses=senses) == ((),)


def test_another_name_of_the_class_decides_which_sense_is_meant():
    labels = LabelSet(("crane",), synonyms=(("Derrick",),))
    assert gather_candidates(labels, senses=senses) == (
        (("Derrick", "label file"), ("derrick", "wordnet"), ("hoist", "wordnet")),
    )


def test_names_of_two_senses_decide_nothing():
    labels = LabelSet(("crane",), synonyms=(("derrick", "wading bird"),))
    assert gather_candidates(labels, senses=senses) == ((("derrick", "label file"), ("wading bird", "label file")),)


def test_an_entry_that_fits_two_classes_is_refused_with_its_file():
    with pytest.raises(ValueError, match=r"^real\.json: 'Red Fox' is a spelling of both 'red fox' and 'red-fox'"):
        gather_candidates(LabelSet(("red fox", "red-fox")), files={"real.json": {"Red Fox": ("vixen",)}})
