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
