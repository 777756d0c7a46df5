import re

import pytest

from rag_clip.data import Hit, LabelSet, Prompts, PromptText
from rag_clip.prompts.control import random_prompts, shared_waffle_prompts, waffle_prompts
from rag_clip.prompts.retrieved import retrieved_prompts
from rag_clip.testing import check_prompts, permute_labels

LABELS = LabelSet(("fox", "can", "owl"))
FOUND = {
    "fox": [Hit(f"f{rank}", f"fox {rank}", 1.0, "web") for rank in range(5)],
    "can": [],
    "owl": [Hit(f"o{rank}", f"owl {rank}", 1.0, "web") for rank in range(2)],
}
CAPTIONS = [Hit(f"r{row}", f"caption {row}", 0.0, "news") for row in range(40)]


def retrieved(labels: LabelSet):
    return retrieved_prompts(labels, [FOUND[name] for name in labels.names])


def test_each_class_gets_as_many_random_captions_with_the_same_weights():
    like, control = retrieved(LABELS), random_prompts(retrieved(LABELS), CAPTIONS, seed=3)
    shapes = [[[(text.role, text.weight) for text in group] for group in prompts.texts] for prompts in (like, control)]
    assert shapes[0] == shapes[1]
    by_id = {hit.id: hit.text for hit in CAPTIONS}
    drawn = [text for group in control.texts for text in group if text.role == "context"]
    assert [text.text for text in drawn] == [by_id[text.evidence] for text in drawn]
    assert {(text.source, text.score, text.rank) for text in drawn} == {("news", None, None)}
    assert [group[0] for group in control.texts] == [group[0] for group in like.texts]
    assert (control.provenance["method"], control.provenance["settings"]["seed"]) == ("random", 3)
    assert like.provenance["method"] == "retrieved"


def test_the_control_keeps_the_contract_of_a_prompt_method():
    check_prompts(lambda labels: random_prompts(retrieved(labels), CAPTIONS, seed=1), LABELS)


def test_a_seed_decides_the_draw():
    draws = [
        tuple(text.evidence for text in random_prompts(retrieved(LABELS), CAPTIONS, seed=seed).texts[0])
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_a_class_draws_the_same_beside_other_classes():
    two = random_prompts(retrieved(permute_labels(LABELS, [2, 0])), CAPTIONS, seed=5)
    three = random_prompts(retrieved(LABELS), CAPTIONS, seed=5)
    assert two.texts == (three.texts[2], three.texts[0])


def test_too_few_captions_are_refused():
    with pytest.raises(ValueError, match="a class needs 5 random captions, found 4; give more captions"):
        random_prompts(retrieved(LABELS), [*CAPTIONS[:4], Hit("blank", " ", 0.0)], seed=0)


def test_waffle_puts_random_words_and_characters_in_the_place_of_each_text():
    group = (
        PromptText("a photo of a red fox.", 0.4),
        PromptText("the red fox", 0.2),
        PromptText("short", 0.1, "context", "web", "1", 0.5, 0),
        PromptText(
            "a caption of exactly thirteen words about a red fox in the snow", 0.1, "context", "web", "2", 0.4, 1
        ),
        PromptText("a caption of exactly twelve words on a red fox in snow", 0.2, "context", "web", "3", 0.3, 2),
    )
    like = Prompts(
        LabelSet(("red fox",)), (group,), {"encoder": {}, "method": "retrieved", "settings": {"weight": 0.4}}
    )
    control = waffle_prompts(like, seed=3)
    assert control.texts[0][:2] == group[:2]
    frame = r"a photo of a red fox, which has "
    patterns = (r"[a-z]+ [a-z]+\.", r"(\S{3,6}, ){4}\S{3,6}\.", r"([a-z]+ ){3}[a-z]+\.")
    drawn = control.texts[0][2:]
    assert [bool(re.fullmatch(frame + pattern, text.text)) for pattern, text in zip(patterns, drawn, strict=True)] == [
        True
    ] * 3
    assert [(text.weight, text.role, text.source, text.evidence, text.score, text.rank) for text in drawn] == [
        (0.1, "context", "waffle", "waffle#1", None, None),
        (0.1, "context", "waffle", "waffle#2", None, None),
        (0.2, "context", "waffle", "waffle#3", None, None),
    ]
    assert control.provenance == {"encoder": {}, "method": "waffle", "settings": {"weight": 0.4, "seed": 3}}


def test_waffle_keeps_the_contract_of_a_prompt_method():
    check_prompts(lambda labels: waffle_prompts(retrieved(labels), seed=1), LABELS)


def test_waffle_draws_by_seed_and_class_name_alone():
    draws = [waffle_prompts(retrieved(LABELS), seed=seed).texts for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    two = waffle_prompts(retrieved(permute_labels(LABELS, [2, 0])), seed=0)
    assert two.texts == (draws[0][2], draws[0][0])
    noise = [group[1].text.partition("which has")[2] for group in (draws[0][0], draws[0][2])]
    assert noise[0] != noise[1]


def test_waffle_starts_from_the_name_where_a_class_has_no_template():
    like = Prompts(LabelSet(("猫",)), ((PromptText("一只猫", 1.0, "context", "web", "1"),),))
    assert waffle_prompts(like, seed=0).texts[0][0].text.startswith("猫, which has ")


def test_shared_waffle_gives_every_class_the_same_words_and_characters():
    labels = LabelSet(("fox", "great_white shark", "barn owl"))  # 2 words on average, of 4.1 letters, the longest 4
    like = Prompts(labels, tuple((PromptText(name, 1.0),) for name in labels.names), {"method": "templates"})
    control = shared_waffle_prompts(like, seed=2, pairs=3)
    noise = [[text.text.partition(", which has ")[2] for text in group] for group in control.texts]
    assert noise[0] == noise[1] == noise[2]
    assert [text.text.partition(", which has ")[0] for text in control.texts[1]] == [
        "A photo of a great white shark"
    ] * 6
    assert all(re.fullmatch(r"[a-z]{2,4} [a-z]{2,4}\.", words) for words in noise[0][::2])
    assert all(re.fullmatch(r"[^ ,]{3}, [^ ,]{3}\.", characters) for characters in noise[0][1::2])
    assert {(text.weight, text.role) for group in control.texts for text in group} == {(1 / 6, "anchor")}
    assert (control.provenance["method"], control.provenance["average"]) == ("waffle_shared", "cosines")
    assert control.provenance["settings"] == {"seed": 2, "pairs": 3}
    assert shared_waffle_prompts(like, seed=2, pairs=3) == control != shared_waffle_prompts(like, seed=3, pairs=3)


def test_shared_waffle_without_a_pair_is_refused():
    with pytest.raises(ValueError, match="0 pairs of words and characters; draw at least 1"):
        shared_waffle_prompts(retrieved(LABELS), seed=0, pairs=0)
