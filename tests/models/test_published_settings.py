"""Whose settings a local file of weights has, on open_clip's own list of published weights."""

from typing import Any

import open_clip
import pytest

from rag_clip.models.published_settings import DEFAULTS, complete, settings_of_file, split_local

TAGS: dict[str, dict[str, Any]] = {
    "old": {"quick_gelu": True},
    "new": {},
    "half": {"mean": [0.5, 0.5, 0.5], "hf_hub": "someone/half"},
}


def published(name: str) -> dict[str, dict]:
    return {tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}


def test_what_follows_the_name_is_a_tag_with_a_file_or_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me@host.pt").touch()
    (tmp_path / "weights.pt").touch()
    path = tmp_path / "weights.pt"
    assert split_local(f"old@{path}", TAGS) == ("old", path)
    assert split_local(str(path), TAGS) == ("", path)
    assert split_local("me@host.pt", TAGS) == ("", (tmp_path / "me@host.pt").relative_to(tmp_path))
    assert split_local("old", TAGS) is None
    with pytest.raises(ValueError, match=r"there is no file 'nowhere\.pt'"):
        split_local("old@nowhere.pt", TAGS)
    with pytest.raises(ValueError, match="no pretrained tag 'odl'; before @ comes the tag"):
        split_local(f"odl@{path}", TAGS)


def test_a_file_has_the_settings_of_its_tag():
    gelu = {"quick_gelu": False, **DEFAULTS}
    assert settings_of_file("M", "old", TAGS, quick_gelu=False) == {**gelu, "quick_gelu": True}
    assert settings_of_file("M", "half", TAGS, quick_gelu=False) == {**gelu, "mean": (0.5, 0.5, 0.5)}


def test_a_file_without_a_tag_is_refused_with_the_choices_where_tags_disagree():
    with pytest.raises(ValueError, match="published for M") as refused:
        settings_of_file("M", "", TAGS, quick_gelu=False)
    assert str(refused.value) == (
        "the weights published for M run with different settings, and a file does not say which are its own; give "
        "M:TAG@FILE, with a TAG of the same settings: old (QuickGELU, mean 0.481, 0.458, 0.408); "
        "new (GELU, mean 0.481, 0.458, 0.408); half (GELU, mean 0.5, 0.5, 0.5)"
    )


def test_a_file_without_a_tag_has_what_all_tags_agree_on():
    assert settings_of_file("M", "", {}, quick_gelu=True) == {"quick_gelu": True, **DEFAULTS}
    assert settings_of_file("RN50x64", "", published("RN50x64"), quick_gelu=False)["quick_gelu"] is True
    found = settings_of_file("MobileCLIP-S1", "", published("MobileCLIP-S1"), quick_gelu=False)
    assert (found["mean"], found["interpolation"]) == ((0.0, 0.0, 0.0), "bilinear")


def test_no_published_weights_run_otherwise_as_a_local_file():
    refused = set()
    for name in open_clip.list_models():
        tags, quick_gelu = published(name), bool(open_clip.get_model_config(name).get("quick_gelu"))
        for tag, settings in tags.items():
            assert settings_of_file(name, tag, tags, quick_gelu=quick_gelu) == complete(settings, quick_gelu)
            try:
                assert settings_of_file(name, "", tags, quick_gelu=quick_gelu) == complete(settings, quick_gelu)
            except ValueError:
                refused.add(name)
    assert refused == {"ViT-B-16", "ViT-B-32", "ViT-bigG-14", "ViT-H-14", "ViT-H-14-quickgelu", "ViT-L-14"}
