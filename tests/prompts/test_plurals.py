"""Plurals of class names: the forms, and the captions that they find."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rag_clip.data import LabelSet
from rag_clip.index import __path__ as schemas
from rag_clip.progress import Progress
from rag_clip.prompts.evidence import gather
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.store import caption_id, create_store, load_schema
from rag_clip.testing import ToyEncoder

pytest.importorskip("inflect", reason="the extra plurals is not installed")

from rag_clip.prompts.plurals import with_plurals

ENCODER = ToyEncoder()
CAPTIONS = (
    "two dogs run in a park",
    "a dog asleep in the sun",
    "hot dogs on a paper plate",
    "three geese cross the road",
    "a red motorbike near the wall",
    "a dogged man walks home",
)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("dog", "dogs"),
        ("Goose", "geese"),
        ("leaf", "leaves"),
        ("wine glass", "wine glasses"),
        ("fire_hydrant", "fire hydrants"),
        ("motorbikes", "motorbike"),
        ("man-of-war", "men of war"),
        ("crane (id n2)", "cranes"),
    ],
)
def test_plurals_and_singulars_are_further_spellings(name: str, form: str):
    (synonyms,) = with_plurals(LabelSet((name,))).synonyms
    assert form in synonyms


def test_synonyms_have_plurals_too_and_keep_their_place():
    (synonyms,) = with_plurals(LabelSet(("kofadul",), synonyms=(("ox", "steer"),))).synonyms
    assert synonyms[:2] == ("ox", "steer")
    assert {"oxen", "steers"} <= set(synonyms)


def test_a_form_that_names_another_class_stays_with_that_class():
    first, second = with_plurals(LabelSet(("glass", "glasses"))).synonyms
    assert "glasses" not in first
    assert "glass" not in second


@pytest.mark.parametrize("name", ["狗", "café", "C++", "Boeing 747"])
def test_names_that_have_no_english_plural_are_left_alone(name: str):
    assert with_plurals(LabelSet((name,))).synonyms == ((),)


def test_captions_that_hold_a_plural_are_found_and_lose_it_with_the_name(tmp_path: Path):
    labels = LabelSet(("dog", "hot dog", "goose", "motorbikes"), templates=("{}",))
    schema = load_schema(Path(schemas[0]) / "captions.toml")
    with create_store(tmp_path / "index", schema=schema, encoder=ENCODER.fingerprint, dim=ENCODER.dim) as store:
        facts: dict[str, Any] = {
            "id": [caption_id("toy", text) for text in CAPTIONS],
            "text": list(CAPTIONS),
            "source": ["toy"] * len(CAPTIONS),
            "vector": pa.FixedSizeListArray.from_arrays(
                ENCODER.encode_text(list(CAPTIONS)).numpy().ravel(), ENCODER.dim
            ).cast(pa.list_(pa.float32())),
        }
        store.upsert(pa.RecordBatch.from_pydict(facts))

        def found(**changes: Any) -> list[list[str]]:
            retrieval = Retrieval(keep="phrase", contrast="drop", **changes)
            texts = gather(labels, encoder=ENCODER, store=store, retrieval=retrieval, progress=Progress())
            return [sorted(text.text for text in group) for group in texts]

        by_engine = found(plurals=True)
        assert found() == [["a dog asleep in the sun"], [], [], []]
        assert by_engine == [
            ["a dog asleep in the sun", "two dogs run in a park"],
            ["hot dogs on a paper plate"],
            ["three geese cross the road"],
            ["a red motorbike near the wall"],
        ]
        assert found(plurals=True, names="dropped") == [
            ["a asleep in the sun", "two run in a park"],
            ["on a paper plate"],
            ["three cross the road"],
            ["a red near the wall"],
        ]
        store.optimise()
        assert store.postings() is not None
        assert found(plurals=True) == by_engine


def test_only_whole_names_have_plurals():
    with pytest.raises(ValueError, match="plurals are forms of whole names, but the filter is 'token'; use keep = 'ph"):
        Retrieval(plurals=True)
