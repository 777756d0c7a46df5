"""How weights differ from a model, and whose they are, on sizes of CLIP models without their values."""

import open_clip
import pytest
import torch

from rag_clip.models.misfit import describe_misfit, likely_architectures


def state(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B-32", ["ViT-B-32", "ViT-B-32-quickgelu"]),
        ("ViT-L-14-336", ["ViT-L-14-336", "ViT-L-14-336-quickgelu"]),
        ("RN50x4", ["RN50x4", "RN50x4-quickgelu"]),
    ],
)
def test_the_architecture_of_weights_is_told_by_their_shapes(name, expected):
    configs = {each: open_clip.get_model_config(each) for each in open_clip.list_models()}
    with torch.device("meta"):
        model = open_clip.CLIP(**{key: value for key, value in configs[name].items() if key != "custom_text"})
    assert likely_architectures(model.state_dict(), configs) == expected
    custom = {
        f"text.{key}" if key.startswith(("positional", "transformer", "token", "ln_final", "text_p")) else key: value
        for key, value in model.state_dict().items()
    }
    assert likely_architectures(custom, configs) == expected


def test_weights_of_other_towers_are_not_told():
    configs = {"ViT-B-32": open_clip.get_model_config("ViT-B-32")}
    assert likely_architectures(state(weight=(2, 3)), configs) == []


def test_a_misfit_names_the_first_keys_of_each_kind():
    expected = state(a=(1,), b=(2,), c=(3,), d=(4,), e=(5,))
    assert describe_misfit(expected, expected) == ""
    assert describe_misfit(state(e=(6,), f=(1,)), expected) == (
        "4 tensors are missing (a, b, c, ...); 1 tensor is unknown to it (f); 1 tensor is of another shape "
        "(e is [6], not [5])"
    )
    assert describe_misfit(state(e=(6,)), state(e=(5,)), ignore=["e"]) == ""
