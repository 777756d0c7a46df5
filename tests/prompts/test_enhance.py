from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from inputs.stores import fill_index
from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet
from rag_clip.files.prompts import read_prompts, write_prompts
from rag_clip.progress import Progress, ProgressEvent
from rag_clip.prompts import evidence
from rag_clip.prompts.enhance import enhance
from rag_clip.prompts.known import KnownNames
from rag_clip.prompts.recipe import Described, Recipe, Synonyms, Templates
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.prompts.templates import GENERAL, template_prompts
from rag_clip.store import CollectionSchema, Store, caption_id, create_store, load_schema, open_store
from rag_clip.testing import ToyEncoder, check_prompts

ENCODER = ToyEncoder()
LABELS = LabelSet(("zorp", "blick", "quux"), templates=("a photo of a {}.",))
CAPTIONS = [
    "zorp red banner",
    "the zorp is a red thing",
    "blick flies blue",
    "a blue blick",
    "a photo of a zorpling .",
    *(f"nothing to see {number}" for number in range(20)),
]


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_index(tmp_path_factory.mktemp("store") / "index", CAPTIONS, ENCODER)


@pytest.fixture(scope="module")
def store(location: Path) -> Iterator[Store]:
    with open_store(location, encoder=ENCODER.fingerprint) as store:
        yield store


def by_captions(**settings: Any) -> Recipe:
    return Recipe("captions", retrieved=Retrieval(**settings))


@pytest.mark.parametrize("search", ["dense", "lexical", "hybrid"])
def test_each_class_gets_the_captions_that_name_it(store: Store, search: str):
    prompts = enhance(LABELS, encoder=ENCODER, store=store, recipe=by_captions(search=search))
    found = [{text.text for text in group if text.role == "context"} for group in prompts.texts]
    assert found == [set(CAPTIONS[0:2]), set(CAPTIONS[2:4]), set()]
    evidence = [text for group in prompts.texts for text in group if text.role == "context"]
    assert [text.evidence for text in evidence] == [caption_id("toy", text.text) for text in evidence]
    assert {text.source for text in evidence} == {"toy"}
    assert prompts.provenance == {
        "encoder": asdict(ENCODER.fingerprint),
        "method": "captions",
        "settings": by_captions(search=search).document(),
        "index": store.location,
        "without_captions": 1,
        "untrusted": 0,
        "notes": [
            "no usable caption names 'quux', so templates keep their weight; index captions that do, or "
            "give synonyms in the label file"
        ],
    }
    assert prompts.provenance["settings"]["retrieved"]["search"] == search


def test_retrieval_classifies_images_of_names_that_the_encoder_has_not_learned(store: Store, tmp_path: Path):
    prompts = enhance(LABELS, encoder=ENCODER, store=store, recipe=by_captions(weight=0.5))
    write_prompts(prompts, tmp_path / "prompts.parquet")
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    pixels[0, 2] = pixels[1, 0] = 255
    classifier = zero_shot(read_prompts(tmp_path / "prompts.parquet"), ENCODER)
    assert classifier(ENCODER.encode_pixels(pixels)).argmax(1).tolist() == [1, 0]


def test_names_are_dropped_from_captions_on_request(store: Store):
    dropped = enhance(LABELS, encoder=ENCODER, store=store, recipe=by_captions(names="dropped"))
    names = dict(enumerate(LABELS.names))
    context = [(row, t.text) for row, group in enumerate(dropped.texts) for t in group if t.role == "context"]
    assert context
    assert [text for row, text in context if names[row] in text.split()] == []


def test_what_was_decided_about_the_names_is_noted_and_chooses_the_templates(store: Store):
    settings: dict[str, Any] = {"keep": "phrase", "names": "dropped", "contrast": "weigh", "trust": "known"}
    recipe = by_captions(search="lexical", weight=0.95, **settings)
    # The caption of zorps says "red thing" of them without the name; what is left of those of blicks is too short.
    known = LabelSet(("thing red", "blue flies"), synonyms=(("zorp",), ("blick",)))
    prompts = enhance(known, encoder=ENCODER, recipe=recipe, store=store)
    assert prompts.provenance["known"] == {
        "share": pytest.approx(1, abs=1e-2),
        "chosen": "names",
        "unknown": [],
        "templates": list(GENERAL),
    }
    assert prompts.provenance["notes"][0] == (
        "the encoder knows these names (1.00): captions weigh 0.25 beside an ensemble of templates"
    )
    anchors = [text for text in prompts.texts[0] if text.role == "anchor"]
    assert [text.text for text in anchors] == [template.replace("{}", "thing red") for template in GENERAL]
    assert sum(text.weight for text in anchors) == pytest.approx(0.75)


def test_names_that_the_encoder_does_not_know_keep_the_label_sets_templates(store: Store):
    settings: dict[str, Any] = {"keep": "phrase", "names": "dropped", "contrast": "weigh", "trust": "known"}
    recipe = by_captions(search="lexical", weight=0.95, **settings)
    swapped = LabelSet(("blue thing", "red flies"), synonyms=(("zorp",), ("blick",)))
    prompts = enhance(swapped, encoder=ENCODER, recipe=recipe, store=store)
    assert prompts.provenance["known"] == {
        "share": pytest.approx(0, abs=1e-2),
        "chosen": "captions",
        "unknown": [],
        "templates": ["a photo of a {}."],
    }
    assert prompts.provenance["notes"][0] == (
        "the encoder does not know these names well (0.00): captions weigh up to 0.95, each class by its own evidence"
    )


def test_the_names_of_a_mixed_set_are_decided_one_by_one(monkeypatch: pytest.MonkeyPatch, store: Store):
    settings: dict[str, Any] = {"keep": "phrase", "names": "dropped", "contrast": "weigh", "trust": "known"}
    recipe = by_captions(search="lexical", weight=0.95, **settings)
    labels = LabelSet(("thing red", "red flies"), synonyms=(("zorp",), ("blick",)))
    mixed = KnownNames(0.5, torch.tensor([False, True]))  # in the order of the names
    monkeypatch.setattr(evidence, "known_names", lambda nearer, captions, sure: mixed)
    prompts = enhance(labels, encoder=ENCODER, recipe=recipe, store=store)
    assert prompts.provenance["known"]["chosen"] == "both"
    assert prompts.provenance["known"]["unknown"] == ["red flies"]
    assert prompts.provenance["notes"][0] == (
        "the encoder knows 1 of 2 names (0.50): captions weigh 0.25 beside an ensemble of templates; "
        "of 'red flies', captions weigh up to 0.95, each class by its own evidence"
    )
    captions = [text for text in prompts.texts[0] if text.role == "context"]
    assert sum(text.weight for text in captions) == pytest.approx(0.25)


def test_nothing_is_decided_where_no_caption_is_found(store: Store):
    recipe = by_captions(search="lexical", keep="phrase", trust="known")
    prompts = enhance(LabelSet(("quux", "frob")), encoder=ENCODER, recipe=recipe, store=store)
    assert "known" not in prompts.provenance
    assert [len(group) for group in prompts.texts] == [1, 1]


def test_templates_need_no_store():
    prompts = enhance(LABELS, encoder=ENCODER, recipe=Recipe(templates=Templates(texts=("the {}",))))
    assert prompts.texts == template_prompts(LABELS, templates=("the {}",)).texts
    assert prompts.provenance == {
        "encoder": asdict(ENCODER.fingerprint),
        "method": "templates",
        "settings": {"name": "templates", "templates": {"set": "", "texts": ["the {}"]}},
        "index": "",
        "without_captions": 0,
        "untrusted": 0,
        "notes": [],
    }


def test_a_named_set_of_templates_comes_before_the_label_sets_own():
    prompts = enhance(LABELS, encoder=ENCODER, recipe=Recipe(templates=Templates(set="general")))
    assert prompts.texts == template_prompts(LABELS, templates=GENERAL).texts


def test_the_control_mixes_in_as_many_captions_of_the_store(store: Store):
    retrieved = enhance(LABELS, encoder=ENCODER, store=store, recipe=by_captions())
    control = enhance(LABELS, encoder=ENCODER, store=store, recipe=by_captions(), control="random", seed=4)
    assert [[text.weight for text in group] for group in control.texts] == [
        [text.weight for text in group] for group in retrieved.texts
    ]
    drawn = {text.text for group in control.texts for text in group if text.role == "context"}
    assert drawn <= set(CAPTIONS)
    assert drawn != {text.text for group in retrieved.texts for text in group if text.role == "context"}
    assert (control.provenance["method"], control.provenance["settings"]["seed"]) == ("random", 4)


def test_the_waffle_control_mixes_in_words_that_say_nothing(store: Store):
    retrieved = enhance(LABELS, encoder=ENCODER, store=store, recipe=by_captions())
    control = enhance(LABELS, encoder=ENCODER, store=store, recipe=by_captions(), control="waffle")
    assert [len(group) for group in control.texts] == [len(group) for group in retrieved.texts]
    drawn = [text.text for group in control.texts for text in group if text.role == "context"]
    assert [text for text in drawn if text in CAPTIONS] == []
    assert control.provenance["method"] == "waffle"


def test_descriptions_are_mixed_in_and_what_does_not_match_is_noted(tmp_path: Path):
    path = tmp_path / "cupl.json"
    path.write_text(
        '{"Zorp": ["A zorp is red.", "Zorps have a banner."], "blick": ["Blicks fly."], "fnord": ["It is."]}'
    )
    recipe = Recipe("described", described=Described((path,), weight=0.4))
    prompts = enhance(LABELS, encoder=ENCODER, recipe=recipe)
    assert [[(text.text, round(text.weight, 9)) for text in group] for group in prompts.texts] == [
        [("a photo of a zorp.", 0.6), ("A zorp is red.", 0.2), ("Zorps have a banner.", 0.2)],
        [("a photo of a blick.", 0.6), ("Blicks fly.", 0.4)],
        [("a photo of a quux.", 1)],
    ]
    assert prompts.provenance["notes"] == [
        "cupl:cupl.json describes no 'quux'",
        "cupl:cupl.json has 'fnord', not in the label set",
    ]


@pytest.mark.parametrize("suffix", ["parquet", "json"])
def test_descriptors_averaged_by_cosines_stay_so_in_the_prompts_file(tmp_path: Path, suffix: str):
    path = tmp_path / "dclip.json"
    path.write_text('{"zorp": ["red", "a banner"], "blick": ["wings"], "quux": ["a hat", "is blue"]}')
    recipe = Recipe("dclip", described=Described((path,), weight=1, average="cosines"))
    write_prompts(enhance(LABELS, encoder=ENCODER, recipe=recipe), tmp_path / f"prompts.{suffix}")
    prompts = read_prompts(tmp_path / f"prompts.{suffix}")
    image = ENCODER.encode_images([Image.new("RGB", (8, 8), "red")])
    vectors = [ENCODER.encode_text([text.text for text in group if text.weight]) for group in prompts.texts]
    cosines = [float((rows @ image.pooled[0]).mean()) for rows in vectors]
    assert [len(rows) for rows in vectors] == [2, 1, 2]
    logits = zero_shot(prompts, ENCODER)(image)[0].tolist()
    assert logits == pytest.approx([ENCODER.scale * cosine + ENCODER.bias for cosine in cosines], abs=1e-4)


def test_a_class_is_called_what_the_captions_call_it(store: Store):
    labels = LabelSet(("grumple", "blick"), synonyms=(("zorp",), ()), templates=("a photo of a {}.",))
    recipe = Recipe("named", synonyms=Synonyms(), retrieved=Retrieval(keep="phrase", weight=0.5))
    prompts = enhance(labels, encoder=ENCODER, store=store, recipe=recipe)
    assert [group[0].text for group in prompts.texts] == ["a photo of a zorp.", "a photo of a blick."]
    assert {text.text for text in prompts.texts[0][1:]} == set(CAPTIONS[0:2])
    assert prompts.labels == labels
    assert prompts.provenance["notes"] == ["'grumple' is called 'zorp', as the corpus says most often"]


def test_a_class_is_called_what_the_frequencies_of_a_real_file_say(store: Store, tmp_path: Path):
    (tmp_path / "real.json").write_text('{"0": {"name": "blick", "alternates": {"blick": 3, "bird blick": 8}}}')
    recipe = Recipe("named", synonyms=Synonyms(files=(tmp_path / "real.json",)))
    prompts = enhance(LABELS, encoder=ENCODER, store=store, recipe=recipe)
    assert [text.text for group in prompts.texts for text in group] == [
        "a photo of a zorp.",
        "a photo of a bird blick.",
        "a photo of a quux.",
    ]
    note = "'blick' is called 'bird blick', as the corpus of its synonym file says most often"
    assert prompts.provenance["notes"] == [note]


def test_captions_and_descriptions_together_leave_the_rest_to_the_templates(store: Store, tmp_path: Path):
    path = tmp_path / "cupl.json"
    path.write_text('{"zorp": ["A zorp is red."], "blick": ["Blicks fly."], "quux": ["A quux is green."]}')
    recipe = Recipe("both", retrieved=Retrieval(weight=0.3), described=Described((path,), weight=0.4))
    prompts = enhance(LABELS, encoder=ENCODER, store=store, recipe=recipe)
    by_source = [
        {source: round(sum(t.weight for t in group if t.source == source), 9) for source in {t.source for t in group}}
        for group in prompts.texts
    ]
    assert by_source == [
        {"template": 0.3, "toy": 0.3, "cupl:cupl.json": 0.4},
        {"template": 0.3, "toy": 0.3, "cupl:cupl.json": 0.4},
        {"template": 0.6, "cupl:cupl.json": 0.4},
    ]


@pytest.mark.parametrize("recipe", [Recipe(), by_captions()], ids=["templates", "captions"])
def test_enhancing_keeps_the_contract_of_a_prompt_method(store: Store, recipe: Recipe):
    check_prompts(lambda labels: enhance(labels, encoder=ENCODER, store=store, recipe=recipe), LABELS)


def test_more_classes_than_a_search_takes_get_what_each_gets_alone(store: Store):
    names = (*(f"filler {number}" for number in range(70)), "zorp", "blick")
    events: list[ProgressEvent] = []
    progress = Progress(report=events.append)
    many = enhance(LabelSet(names), encoder=ENCODER, store=store, recipe=by_captions(), progress=progress)
    assert many.texts[70:] == enhance(LABELS, encoder=ENCODER, store=store, recipe=by_captions()).texts[:2]
    assert events == [ProgressEvent("retrieve", 64, 72, "classes"), ProgressEvent("retrieve", 72, 72, "classes")]
    assert set(progress.seconds) == {"encode queries", "search", "filter"}


def test_captions_that_hold_a_synonym_are_found_before_those_that_match_the_name_better(store: Store):
    recipe = by_captions(search="lexical", keep="phrase", limit=1, candidates=1)
    labels = LabelSet(("red thing zorp banner",), synonyms=(("red thing",),))
    [group] = enhance(labels, encoder=ENCODER, store=store, recipe=recipe).texts
    assert [text.text for text in group if text.role == "context"] == ["the zorp is a red thing"]


def test_underscores_part_words_in_lexical_search(store: Store):
    recipe = by_captions(search="lexical", keep="phrase")
    prompts = enhance(LabelSet(("blue_blick",)), encoder=ENCODER, store=store, recipe=recipe)
    assert [text.text for text in prompts.texts[0][1:]] == ["a blue blick"]


def test_an_index_of_another_encoder_is_refused_where_vectors_are_compared(store: Store):
    other = ToyEncoder(name="other")
    with pytest.raises(ValueError, match=r"was built with toy .* but the encoder is other .* or lexical search"):
        enhance(LABELS, encoder=other, store=store, recipe=by_captions())
    prompts = enhance(LABELS, encoder=other, store=store, recipe=by_captions(search="lexical"))
    assert prompts.provenance["encoder"] == asdict(other.fingerprint)


def test_an_empty_index_is_refused(tmp_path: Path):
    schema: CollectionSchema = load_schema()
    with (
        create_store(tmp_path / "empty", schema=schema, encoder=ENCODER.fingerprint, dim=ENCODER.dim) as empty,
        pytest.raises(ValueError, match=r"the index at .*empty holds no captions; build it first"),
    ):
        enhance(LABELS, encoder=ENCODER, store=empty, recipe=by_captions())


def test_a_missing_store_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="recipe 'captions' looks for captions and needs an index; give one, or use"):
        enhance(LABELS, encoder=ENCODER, recipe=by_captions())
    (tmp_path / "cupl.json").write_text('{"zorp": ["A zorp is red."]}')
    described = Recipe("described", described=Described((tmp_path / "cupl.json",)))
    with pytest.raises(ValueError, match="the random control looks for captions and needs an index"):
        enhance(LABELS, encoder=ENCODER, recipe=described, control="random")


def test_an_unknown_control_and_one_of_nothing_are_refused(store: Store):
    with pytest.raises(ValueError, match="unknown control 'magic'; known are random, waffle"):
        enhance(LABELS, encoder=ENCODER, store=store, recipe=by_captions(), control="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="recipe 'templates' mixes no texts into its templates"):
        enhance(LABELS, encoder=ENCODER, store=store, recipe=Recipe(), control="waffle")
