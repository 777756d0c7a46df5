"""Names spelt like an unknown one."""

from rag_clip.words import did_you_mean, near_names

KNOWN = ["demo", "ViT-B-32", "ViT-B-16", "RN50"]


def test_capitals_and_hyphens_do_not_count():
    assert near_names("vitb32", KNOWN, most=1) == ["ViT-B-32"]


def test_the_nearest_names_are_asked_for():
    assert did_you_mean("demmo", KNOWN) == "did you mean demo? "
    assert did_you_mean("ViT-B-36", KNOWN) == "did you mean ViT-B-32 or ViT-B-16? "
    assert did_you_mean("qqq", KNOWN) == ""
