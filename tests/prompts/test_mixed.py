import pytest

from rag_clip.data import LabelSet, PromptText
from rag_clip.prompts.mixed import mix
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import check_prompts

LABELS = LabelSet(("zorp", "blick"), templates=("a {}.", "the {}."))
ANCHORS = template_prompts(LABELS)


def context(text: str, weight: float, source: str) -> PromptText:
    return PromptText(text, weight, "context", source, evidence=text)


CAPTIONS = ((context("a red zorp", 0.2, "wiki"), context("zorps", 0.1, "shop")), ())
SENTENCES = ((context("zorps are red", 0.3, "cupl"),), (context("blicks fly", 0.3, "cupl"),))


def test_each_source_keeps_its_weight_and_the_templates_share_the_rest():
    prompts = mix(ANCHORS, CAPTIONS, SENTENCES)
    weights = [[(text.text, round(text.weight, 9)) for text in group] for group in prompts.texts]
    assert weights == [
        [("a zorp.", 0.2), ("the zorp.", 0.2), ("a red zorp", 0.2), ("zorps", 0.1), ("zorps are red", 0.3)],
        [("a blick.", 0.35), ("the blick.", 0.35), ("blicks fly", 0.3)],
    ]
    assert prompts.texts[0][2:] == CAPTIONS[0] + SENTENCES[0]


def test_without_contexts_the_templates_stay_as_they_are():
    assert mix(ANCHORS) == ANCHORS
    assert mix(ANCHORS, ((), ())) == ANCHORS


def test_contexts_may_weigh_everything():
    prompts = mix(ANCHORS, ((context("a red zorp", 1.0, "wiki"),), ()))
    assert [text.weight for text in prompts.texts[0]] == [0, 0, 1]


def test_a_class_cannot_weigh_more_than_one():
    heavy = ((context("zorps", 0.8, "wiki"),), ())
    with pytest.raises(ValueError, match=r"class 'zorp' weigh 1\.1000 together; they may weigh at most 1"):
        mix(ANCHORS, heavy, SENTENCES)


def test_texts_of_another_label_set_are_refused():
    with pytest.raises(ValueError, match="texts for 1 class cannot be mixed into 2"):
        mix(ANCHORS, ((),))


def test_mixing_meets_the_contract_of_prompts():
    sentences = dict(zip(LABELS.names, SENTENCES, strict=True))
    check_prompts(lambda labels: mix(template_prompts(labels), tuple(sentences[name] for name in labels.names)), LABELS)
