import pytest

from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.prompts.templates import GENERAL, SINGLE, TEMPLATE_SETS, template_prompts, template_set
from rag_clip.testing import check_prompts

LABELS = LabelSet(("cat", "a {} of {0}"))


def test_every_template_holds_every_name_with_equal_weight():
    prompts = template_prompts(LABELS, templates=["the {}.", "{} and {}"])
    assert prompts == Prompts(
        LABELS,
        (
            (PromptText("the cat.", 0.5), PromptText("cat and cat", 0.5)),
            (PromptText("the a {} of {0}.", 0.5), PromptText("a {} of {0} and a {} of {0}", 0.5)),
        ),
        {"encoder": {}, "method": "templates", "settings": {"templates": ["the {}.", "{} and {}"]}, "index": ""},
    )


def test_templates_given_come_before_the_label_sets_own_and_those_before_the_default():
    own = LabelSet(("cat",), templates=("my {}",))
    chosen = [
        template_prompts(own, templates=("the {}",)),
        template_prompts(own),
        template_prompts(LabelSet(("cat",))),
    ]
    assert [prompts.texts[0][0].text for prompts in chosen] == ["the cat", "my cat", "a photo of a cat."]


@pytest.mark.parametrize("name", TEMPLATE_SETS)
def test_every_set_keeps_the_contract_of_a_prompt_method(name: str):
    check_prompts(lambda labels: template_prompts(labels, templates=template_set(name)), LABELS)


@pytest.mark.parametrize("name", TEMPLATE_SETS)
def test_the_templates_of_a_set_differ_and_hold_one_name(name: str):
    assert [template.count("{}") for template in template_set(name)] == [1] * len(set(template_set(name)))


def test_a_set_is_found_by_its_name():
    assert (template_set("single"), template_set("general")) == (SINGLE, GENERAL)
    with pytest.raises(ValueError, match=r"unknown template set 'Aerial'; known are single, general, aerial, textures"):
        template_set("Aerial")


def test_templates_without_a_place_for_the_name_are_refused():
    with pytest.raises(ValueError, match=r"template 'a photo' has no '{}'; put '{}' where the class name goes"):
        template_prompts(LABELS, templates=["a photo"])
    with pytest.raises(ValueError, match=r"templates is the text 'a {}'; give a list of templates"):
        template_prompts(LABELS, templates="a {}")
