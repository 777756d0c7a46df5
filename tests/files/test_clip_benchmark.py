"""The two files of CLIP_benchmark: what its classifier computes from them is ours, and nothing else is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.files.clip_benchmark import write_clip_benchmark
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import ToyEncoder

LABELS = LabelSet(("photo", "red {c} kite", "crane (id 7)", "crow"), ("photo", "kite", "7", "crow"))
TEMPLATES = ("a photo of a {}.", "{}: one {}")


def written(prompts: Prompts, folder: Path) -> tuple[list[str], list[str] | dict[str, list[str]]]:
    write_clip_benchmark(prompts, folder, dataset="birds")
    return tuple(json.loads((folder / name).read_text())["birds"] for name in ("classnames.json", "templates.json"))


def their_weights(names: list[str], templates: list[str] | dict[str, list[str]]) -> torch.Tensor:
    """Average as CLIP_benchmark's zero_shot_classifier does."""
    rows = []
    for name in names:
        texts = templates[name] if isinstance(templates, dict) else [each.format(c=name) for each in templates]
        rows.append(normalize(normalize(ToyEncoder(16).encode_text(texts), dim=-1).mean(0), dim=0))
    return torch.stack(rows)


def test_templates_become_a_list_with_c_for_the_name(tmp_path: Path) -> None:
    prompts = template_prompts(LABELS, templates=TEMPLATES)
    names, templates = written(prompts, tmp_path)
    assert names == ["photo", "red {c} kite", "crane", "crow"]
    assert templates == ["a photo of a {c}.", "{c}: one {c}"]
    torch.testing.assert_close(their_weights(names, templates), zero_shot(prompts, ToyEncoder(16)).weights)


def test_texts_of_their_own_become_a_list_for_each_class(tmp_path: Path) -> None:
    texts = (("a striped cat", "a small cat"), ("a dog",))
    groups = tuple(tuple(PromptText(text, 1 / len(group)) for text in group) for group in texts)
    prompts = Prompts(LabelSet(("cat", "dog")), groups, {})
    names, templates = written(prompts, tmp_path)
    assert templates == {"cat": ["a striped cat", "a small cat"], "dog": ["a dog"]}
    torch.testing.assert_close(their_weights(names, templates), zero_shot(prompts, ToyEncoder(16)).weights)


PAIR = (PromptText("a cat", 0.5), PromptText("a small cat", 0.5))


@pytest.mark.parametrize(
    ("group", "average", "said"),
    [
        ((replace(PAIR[0], weight=0.75), replace(PAIR[1], weight=0.25)), "vectors", "weights 0.25 and 0.75"),
        ((PAIR[0], replace(PAIR[1], role="context")), "vectors", "has the context 'a small cat', which is mixed into"),
        (PAIR, "cosines", "the prompts average cosines, and CLIP_benchmark averages vectors"),
    ],
)
def test_prompts_that_clip_benchmark_would_average_otherwise_are_refused(
    group: tuple[PromptText, ...], average: str, said: str, tmp_path: Path
) -> None:
    prompts = Prompts(LabelSet(("cat",)), (group,), {"average": average})
    with pytest.raises(ValueError, match=said):
        write_clip_benchmark(prompts, tmp_path, dataset="birds")
    assert list(tmp_path.iterdir()) == []


def test_two_classes_that_texts_call_the_same_are_refused(tmp_path: Path) -> None:
    prompts = template_prompts(LabelSet(("crane", "crane"), ("1", "2")))
    with pytest.raises(ValueError, match="two classes are both called 'crane'"):
        write_clip_benchmark(prompts, tmp_path, dataset="birds")
