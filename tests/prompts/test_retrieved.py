import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Hit, LabelSet, Prompts, PromptText
from rag_clip.prompts.retrieved import (
    Keep,
    contains_phrase,
    contains_substring,
    contains_token,
    retrieved_prompts,
    without_name,
)
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import ToyEncoder, check_prompts
from rag_clip.words import words_of

LABELS = LabelSet(("red fox", "can"), synonyms=(("vulpes vulpes",), ()), templates=("a {}", "the {}"))
FOX = [
    Hit("f1", "a grey wolf", 0.9, "web"),
    Hit("f2", "Fox in the snow", 0.8, "web"),
    Hit("f3", "my Red car", 0.7, "news"),
    Hit("f4", "a red fox", 0.6, "web"),
]
CAN = [Hit("c1", "American pie", 0.5, "web"), Hit("c2", "a tin", 0.4, "web")]


def test_kept_captions_share_the_weight_and_carry_their_evidence():
    prompts = retrieved_prompts(LABELS, [FOX, CAN], weight=0.2, limit=2)
    assert prompts == Prompts(
        LABELS,
        (
            (
                PromptText("a red fox", 0.4),
                PromptText("the red fox", 0.4),
                PromptText("Fox in the snow", 0.1, "context", "web", "f2", 0.8, 1),
                PromptText("my Red car", 0.1, "context", "news", "f3", 0.7, 2),
            ),
            (PromptText("a can", 0.5), PromptText("the can", 0.5)),
        ),
        {
            "encoder": {},
            "method": "retrieved",
            "settings": {
                "templates": ["a {}", "the {}"],
                "weight": 0.2,
                "limit": 2,
                "keep": "contains_token",
                "rewrite": "as_written",
            },
            "index": "",
            "without_captions": 1,
        },
    )


def test_the_defaults_are_those_of_the_paper():
    many = [Hit(f"h{rank}", f"fox {rank}", 1 - rank / 1000) for rank in range(150)]
    group = retrieved_prompts(LABELS, [many, []]).texts[0]
    assert [text.weight for text in group] == pytest.approx([0.375, 0.375, *[0.0025] * 100])
    assert [text.rank for text in group[2:]] == list(range(100))


@pytest.mark.parametrize(
    ("keep", "fox", "can"),
    [
        (contains_token, ["f2", "f3", "f4"], []),
        (contains_substring, ["f2", "f3", "f4"], ["c1"]),
        (contains_phrase, ["f4"], []),
    ],
)
def test_each_filter_keeps_its_captions(keep: Keep, fox: list[str], can: list[str]):
    prompts = retrieved_prompts(LABELS, [FOX, CAN], keep=keep)
    evidence = [[text.evidence for text in group if text.evidence] for group in prompts.texts]
    assert evidence == [fox, can]


@pytest.mark.parametrize(
    ("name", "caption", "expected"),
    [
        ("fire_truck", "a TRUCK!", True),
        ("fire truck", "trucks, firefly", False),
        ("t-shirt", "ford model t", False),
        ("t-shirt", "white T-shirt, size M", True),
        ("t-shirt", "white t shirt", True),
        ("bird's nest", "two birds'", False),
        ("bird's nest", "a bird", True),
        ("bird", "the bird’s wing", True),
        ("rock", "rock 's rising stars", True),
        ("o'neill", "the O’Neill house", True),
        ("o'neill", "neill", False),
        ("café", "CAFE\u0301 terrace", True),
        ("straße", "lange STRASSE", True),
        ("ﬁsh", "fish", True),
        ("C++", "vitamin c", True),
        ("can", "American", False),
        ("747", "boeing 747-400", True),
        ("***", "***", False),
        ("{x} (y)", "the Y axis", True),
        ("кот", "Чёрный КОТ", True),
        ("自行车", "红色的自行车靠在墙边", True),
        ("自行车", "公园里的狗", False),
    ],
)
def test_a_token_is_a_whole_word_without_case(name: str, caption: str, expected: bool):
    assert contains_token(name)(caption) is expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A Red-Fox, sleeping", True),
        ("Vulpes vulpes in Wales", True),
        ("a fox, red", False),
        ("bored foxes", False),
        ("red foxglove", False),
        ("vulpes lagopus", False),
    ],
)
def test_a_phrase_is_a_whole_name_or_synonym_in_order(caption: str, expected: bool):
    assert contains_phrase("red_fox", ("vulpes vulpes", ""))(caption) is expected


def test_filters_agree_with_the_words_of_captions_whatever_they_are_made_of():
    draw = random.Random(0)
    texts = ["".join(draw.choices("aAsS' ’-_ßﬁé狗İK\u0301", k=draw.randint(1, 8))) for _ in range(150)]
    kept = [(name, caption) for name in texts for caption in texts if contains_phrase(name)(caption)]
    spaced = {text: f" {' '.join(words_of(text))} " for text in texts}
    assert kept == [(n, c) for n in texts for c in texts if words_of(n) and spaced[n] in spaced[c]]
    assert len(kept) > 2 * len(texts)


def test_retrieval_keeps_the_contract_of_a_prompt_method():
    found = {"red fox": FOX, "can": CAN}
    check_prompts(lambda labels: retrieved_prompts(labels, [found[name] for name in labels.names]), LABELS)


def test_hits_may_come_one_class_at_a_time():
    def one_by_one() -> Iterator[list[Hit]]:
        yield FOX
        yield CAN

    assert retrieved_prompts(LABELS, one_by_one()) == retrieved_prompts(LABELS, [FOX, CAN])


def test_weight_zero_classifies_as_the_templates_do_and_weight_one_as_the_captions_do():
    encoder = ToyEncoder()
    plain = zero_shot(template_prompts(LABELS), encoder).weights.numpy()
    nothing = zero_shot(retrieved_prompts(LABELS, [FOX, CAN], weight=0), encoder).weights.numpy()
    np.testing.assert_allclose(nothing, plain, atol=1e-6)
    captions = encoder.encode_text(["Fox in the snow", "my Red car", "a red fox"]).mean(0)
    everything = zero_shot(retrieved_prompts(LABELS, [FOX, CAN], weight=1), encoder).weights.numpy()
    np.testing.assert_allclose(everything[0], (captions / captions.norm()).numpy(), atol=1e-6)
    np.testing.assert_allclose(everything[1], plain[1], atol=1e-6)


def published(
    templates: np.ndarray, captions: list[np.ndarray], weight: float, *, normalised: bool = True
) -> np.ndarray:
    """RePE from its equation: `templates` [c, j, d] and the captions of each class [k, d], unit rows, in float64."""
    classes = []
    for own, found in zip(templates.astype(np.float64), captions, strict=True):
        mean = sum(row.astype(np.float64) for row in found) / len(found) if len(found) else None
        mixed = [row if mean is None else (1 - weight) * row + weight * mean for row in own]
        if not normalised:
            classes.append(mixed[0])
            continue
        ensemble = sum(row / np.linalg.norm(row) for row in mixed)
        classes.append(ensemble / np.linalg.norm(ensemble))
    return np.stack(classes)


@pytest.mark.parametrize("templates", [("a {}",), ("a {}", "the {}", "{} !")])
@pytest.mark.parametrize("weight", [0.0, 0.25, 0.9])
def test_class_weights_agree_with_the_equation(templates: tuple[str, ...], weight: float):
    draw, encoder = np.random.default_rng(0), ToyEncoder(dim=24)
    labels = LabelSet(tuple(f"class{row}" for row in range(12)), templates=templates)
    words = [f"word{row}" for row in range(30)]
    hits = [
        [Hit(f"{name}-{k}", f"{name} {' '.join(draw.choice(words, 3))}", 0.5) for k in range(draw.integers(0, 9))]
        for name in labels.names[:-1]
    ]
    hits[1] = [Hit(f"tie-{k}", "class1 said again", 0.5) for k in range(5)]  # equal captions count each
    hits.append([])
    filled = encoder.encode_text([t.replace("{}", name) for name in labels.names for t in templates]).numpy()
    vectors = [encoder.encode_text([hit.text for hit in found[:4]]).numpy() for found in hits]
    expected = published(filled.reshape(12, len(templates), -1), vectors, weight)
    found = zero_shot(retrieved_prompts(labels, hits, weight=weight, limit=4), encoder).weights
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_the_published_single_template_differs_by_the_length_of_the_mixture_alone():
    encoder, labels = ToyEncoder(), LabelSet(LABELS.names, templates=("a {}",))
    filled = encoder.encode_text(["a red fox", "a can"]).numpy()[:, None]
    vectors = [encoder.encode_text([hit.text for hit in FOX[1:]]).numpy(), np.zeros((0, encoder.dim))]
    unnormalised = published(filled, vectors, 0.25, normalised=False)
    ours = zero_shot(retrieved_prompts(labels, [FOX, CAN]), encoder).weights.numpy()
    np.testing.assert_allclose(ours * np.linalg.norm(unnormalised, axis=1, keepdims=True), unnormalised, atol=1e-6)
    assert np.linalg.norm(unnormalised[0]) < 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 1.5}, "the weight of the captions is 1.5; give a number from 0 to 1"),
        ({"weight": float("nan")}, "the weight of the captions is nan"),
        ({"limit": 0}, "the limit of captions is 0; give at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        retrieved_prompts(LABELS, [FOX, CAN], **settings)


@pytest.mark.parametrize("hits", [[FOX], [FOX, CAN, CAN]])
def test_hits_for_another_number_of_classes_are_refused(hits: list[list[Hit]]):
    with pytest.raises(ValueError, match="zip"):
        retrieved_prompts(LABELS, hits)


@pytest.mark.parametrize(
    ("caption", "left"),
    [
        ("Red Fox: a small animal in snow", "a small animal in snow"),
        ("a small animal in snow (red-fox)", "a small animal in snow"),
        ("the RED_FOX and the Vulpes  vulpes at night", "the and the at night"),
        ("a photo of red foxes in snow", "a photo of red foxes in snow"),
        ("a red fox here", ""),
        ("red fox", ""),
    ],
)
def test_the_name_and_its_synonyms_are_left_out_of_a_caption(caption: str, left: str):
    assert without_name("red fox", ("vulpes vulpes",))(caption) == left


def test_names_with_special_characters_are_left_out_as_spelled():
    assert without_name("c++ (book)")("a worn c++ (book) on the desk") == "a worn on the desk"


def test_rewritten_captions_keep_their_evidence_and_empty_ones_are_passed_over():
    hits = [Hit("f1", "red fox", 0.9, "web"), Hit("f2", "red fox running in snow", 0.8, "web")]
    group = retrieved_prompts(LABELS, [hits, []], weight=0.4, rewrite=without_name).texts[0]
    assert group[2:] == (PromptText("running in snow", 0.4, "context", "web", "f2", 0.8, 1),)
