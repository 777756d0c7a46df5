import pytest

from rag_clip.data import LabelSet
from rag_clip.prompts.mentions import Mentions

LABELS = LabelSet(
    ("shark", "tiger shark", "tiger", "crane", "machine", "猫"),
    synonyms=((), ("galeocerdo",), (), ("heron",), ("crane",), ()),
)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a tiger shark in the sea", {"tiger shark"}),
        ("the Tiger-Shark, a shark", {"tiger shark", "shark"}),
        ("Galeocerdo!", {"tiger shark"}),
        ("a tiger and the shark's fin", {"tiger", "shark"}),
        ("tiger tiger shark", {"tiger", "tiger shark"}),
        ("sharks and tigerish cats", set()),
        ("a crane by the water", {"crane", "machine"}),
        ("沙发上的猫睡觉", {"猫"}),
        ("", set()),
    ],
)
def test_the_longest_whole_name_is_the_one_named(caption: str, expected: set[str]):
    assert Mentions(LABELS).names(caption) == expected


@pytest.mark.parametrize(
    ("name", "caption", "expected"),
    [
        ("shark", "a tiger shark", False),
        ("tiger shark", "a tiger shark", True),
        ("shark", "a shark beside a tiger", True),
        ("shark", "a big fish", True),
        ("crane", "two cranes, one crane", True),
        ("tiger", "a heron", False),
    ],
)
def test_captions_that_name_other_classes_only_are_refused(name: str, caption: str, expected: bool):
    assert Mentions(LABELS).keep(name)(caption) is expected


def test_a_name_without_words_is_never_named():
    assert Mentions(LabelSet(("***", "🦊", "fox"))).names("*** 🦊 fox") == {"fox"}


def test_where_no_spelling_hides_another_nothing_is_looked_up():
    held = {
        "shark": ["a tiger shark", "a shark"],
        "tiger shark": ["a tiger shark", "galeocerdo"],
        "tiger": ["a tiger", "a tiger shark"],
        "crane": ["a crane", "a heron"],
        "machine": ["a crane"],
        "猫": ["沙发上的猫"],
        "red tiger": ["a red tiger", "a red tiger shark"],
    }
    labels = LabelSet((*LABELS.names, "red tiger"), synonyms=(*LABELS.synonyms, ()))
    mentions = Mentions(labels)
    for name, captions in held.items():
        synonyms = labels.synonyms[labels.names.index(name)]
        quick = [mentions.keep_holding(name, synonyms)(caption) for caption in captions]
        assert quick == [mentions.keep(name)(caption) for caption in captions]
    assert mentions.keep_holding("shark")("a tiger shark") is False
