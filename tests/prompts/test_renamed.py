"""Renaming the classes of prompts: which texts change, which stay, and which names are tried."""

from __future__ import annotations

from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.prompts.renamed import shared_templates, swap_names
from rag_clip.prompts.templates import template_prompts

LABELS = LabelSet(("fox", "photo", "Sea Lion"), synonyms=(("vixen", "Tod"), ("picture",), ()))
TEMPLATES = ("a photo of a {}.", "many {}s")


def texts(prompts: Prompts) -> dict[str, list[str]]:
    groups = zip(prompts.labels.names, prompts.texts, strict=True)
    return {name: [text.text for text in group] for name, group in groups}


def described(labels: LabelSet, *groups: tuple[str, ...]) -> Prompts:
    return Prompts(labels, tuple(tuple(PromptText(text, 1 / len(group)) for text in group) for group in groups))


def test_each_synonym_takes_the_place_of_the_name_in_the_templates() -> None:
    swaps = swap_names(template_prompts(LABELS, templates=TEMPLATES))
    assert swaps is not None
    # "a photo of a photo." keeps the word that is of the template.
    assert texts(swaps.prompts) == {
        "fox → vixen": ["a photo of a vixen.", "many vixens"],
        "fox → Tod": ["a photo of a Tod.", "many Tods"],
        "photo → picture": ["a photo of a picture.", "many pictures"],
    }
    assert swaps.classes == (0, 0, 1)


def test_contexts_and_weights_stay_and_so_does_the_encoder() -> None:
    context = PromptText("the fox on a hill", 0.25, role="context", evidence="7")
    labels = LabelSet(("fox",), synonyms=(("vixen",),))
    swaps = swap_names(Prompts(labels, ((PromptText("a Fox!", 0.75), context),), {"encoder": {"model": "demo"}}))
    assert swaps is not None
    assert swaps.prompts.texts == ((PromptText("a vixen!", 0.75), context),)
    assert swaps.prompts.provenance == {"encoder": {"model": "demo"}}


def test_names_are_whole_words_in_any_spelling() -> None:
    labels = LabelSet(("sea lion",), synonyms=(("seal",),))
    swaps = swap_names(described(labels, ("SEA-LIONS at sea", "sealion", "a sea  lion", "no name")))
    assert swaps is not None
    assert texts(swaps.prompts) == {
        "sea lion → seal": ["sealS at sea", "sealion", "a seal", "no name"],
    }


def test_a_class_called_by_a_synonym_is_renamed_to_its_own_name_too() -> None:
    swaps = swap_names(described(LabelSet(("fox",), synonyms=(("vixen", "tod"),)), ("a vixen",)))
    assert swaps is not None
    assert texts(swaps.prompts) == {"fox → fox": ["a fox"], "fox → tod": ["a tod"]}


def test_names_without_spaces_around_them_are_found() -> None:
    swaps = swap_names(described(LabelSet(("狗",), synonyms=(("犬",),)), ("两只狗的照片",)))
    assert swaps is not None
    assert texts(swaps.prompts) == {"狗 → 犬": ["两只犬的照片"]}


def test_names_that_two_classes_have_are_not_tried_and_classes_not_named_are_not_renamed() -> None:
    labels = LabelSet(("fox", "cat"), synonyms=(("Cát", "pet"), ("pet",)))
    assert swap_names(template_prompts(labels)) is None
    unnamed = LabelSet(("fox",), synonyms=(("vixen",),))
    assert swap_names(described(unnamed, ("an animal with a red coat",))) is None
    assert swap_names(described(LabelSet(("fox",)), ("a fox",))) is None


def test_templates_are_those_that_half_of_the_classes_fill() -> None:
    prompts = template_prompts(LABELS, templates=TEMPLATES)
    assert shared_templates(prompts) == TEMPLATES
    own = described(LABELS, ("a fox", "the fox has a red coat"), ("a photo", "paper"), ("the sea lion swims",))
    assert shared_templates(own) == ("a {}",)
    nameless = described(LabelSet(("fox", "cat"), templates=("one {}",)), ("red",), ("soft",))
    assert shared_templates(nameless) == ("one {}",)
