import re
from pathlib import Path

import pytest
import torch

from rag_clip.classifiers.contexts import Context
from rag_clip.classifiers.gaussian import GaussianSettings
from rag_clip.classifiers.heads import HEADS, build_head, describe_settings, head_name, head_settings, read_options
from rag_clip.classifiers.ridge import RidgeSettings
from rag_clip.classifiers.tip_adapter import TipAdapter, TipAdapterFSettings
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.testing import ToyEncoder
from rag_clip.training.loop import Schedule

LABELS = LabelSet(("red", "blue", "green"))
ENCODER = ToyEncoder()
TEXTS = ENCODER.encode_text(LABELS.names)
ZERO_SHOT = ZeroShot(LABELS, TEXTS, ENCODER.scale)
DRAW = torch.Generator().manual_seed(0)
FEATURES = torch.nn.functional.normalize(TEXTS.repeat(4, 1) + 0.3 * torch.randn(12, ENCODER.dim, generator=DRAW), dim=1)
SUPPORT = Support(
    LABELS,
    FEATURES,
    torch.eye(3).repeat(4, 1),
    torch.ones(12),
    ("shot",) * 12,
    tuple(map(str, range(12))),
    others={"second": FEATURES.flip(1)},
)
WITHOUT_TEXT_TOWER = [name for name, head in HEADS.items() if not head.trains_texts]


@pytest.mark.parametrize("name", WITHOUT_TEXT_TOWER)
def test_every_head_is_built_by_its_name_and_classifies(name: str):
    options = {"schedule": {"epochs": 2}} if "schedule" in HEADS[name].defaults else {}
    head = build_head(name, SUPPORT, encoder=ENCODER, options=options)(ZERO_SHOT)
    logits = head(Features(FEATURES, others={"second": FEATURES.flip(1)}))
    assert head.labels == LABELS
    assert logits.shape == (12, 3)
    assert (logits.argmax(1) == torch.arange(12) % 3).float().mean() > 0.8


def test_the_settings_given_are_those_of_the_builder():
    alone = build_head("gaussian", SUPPORT, encoder=ENCODER, options={"alpha": 0.25})(ZERO_SHOT)
    torch.testing.assert_close(
        alone(Features(FEATURES)), GaussianSettings(alpha=0.25).build(ZERO_SHOT, SUPPORT)(Features(FEATURES))
    )
    assert HEADS["gaussian"].defaults == {"alpha": None, "text_samples": 1.0}


def test_a_settings_value_builds_what_its_name_and_options_build():
    schedule = {"epochs": 2, "rate": 0.01, "epsilon": 1e-4}
    by_name = build_head("tip_adapter_f", SUPPORT, encoder=None, options={"alpha": 2, "beta": 3, "schedule": schedule})
    value = TipAdapterFSettings(alpha=2.0, beta=3.0, schedule=Schedule(epochs=2, rate=0.01, epsilon=1e-4))
    by_value = build_head(value, SUPPORT, encoder=None)
    assert torch.equal(by_name(ZERO_SHOT)(Features(FEATURES)), by_value(ZERO_SHOT)(Features(FEATURES)))
    assert head_settings("tip_adapter_f", {"alpha": 2, "beta": 3, "schedule": schedule}) == value


@pytest.mark.parametrize("name", HEADS)
def test_settings_are_values_of_the_head_they_are_named_by(name: str):
    value = head_settings(name)
    assert (value, head_name(value)) == (HEADS[name].settings(), name)
    assert value == head_settings(name, HEADS[name].defaults)


def test_settings_beside_options_and_of_no_head_are_refused():
    with pytest.raises(ValueError, match=r"ridge are given as RidgeSettings\(.*penalty=0.5.*\); change them there"):
        build_head(RidgeSettings(penalty=0.5), SUPPORT, encoder=None, options={"penalty": 1.0})
    with pytest.raises(ValueError, match="Context are not the settings of a head; known are tip_adapter, "):
        build_head(Context(), SUPPORT, encoder=None)  # type: ignore[arg-type]


def test_settings_are_described_as_they_were_written():
    assert describe_settings("gaussian", {"alpha": 1}) == {"alpha": 1, "text_samples": 1.0}
    assert describe_settings(RidgeSettings(penalty=0.5)) == {"bandwidth": None, "penalty": 0.5, "mode": "balanced"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ridge", {"penalty": 0}, "bandwidth is None and penalty 0.0; both must be above zero"),
        ("gaussian", {"alpha": -1}, "alpha is -1.0 and text_samples 1.0; give numbers from 0"),
        ("linear_probe", {"rate": 0}, "rate is 0.0 and weight_decay None; both must be above zero"),
        ("priming", {"discount": 2}, "text_count is None and discount 2.0; give a count above 0, a discount in 0..1"),
        ("tip_x", {"temperature": 0}, "the temperature of the signatures is 0.0; it must be above zero"),
        ("ballad", {"share": 2}, "the adapter's share is 2.0; it must lie in [0, 1]"),
    ],
)
def test_values_that_settings_refuse_are_refused_before_anything_is_read(
    name: str, options: dict[str, object], message: str
):
    with pytest.raises(ValueError, match=f"^{name}: {re.escape(message)}$"):
        head_settings(name, options)


def test_heads_say_what_they_need():
    assert HEADS["tip_x"].needs == "support; may use validation"
    assert HEADS["como_f"].needs == "support, features by a second encoder, training; may use validation"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magic", {}, "unknown head 'magic'; known are tip_adapter, "),
        (
            "gaussian",
            {"beta": 1.0},
            "gaussian: unknown key 'beta'; known are alpha, text_samples",
        ),
        ("gaussian", {"support": 1.0}, "gaussian: unknown key 'support'"),
        ("gaussian", {"alpha": "much"}, "gaussian: alpha is 'much'; give a number"),
        ("tip_adapter_f", {"schedule": {"epochs": 0}}, "tip_adapter_f: schedule: cannot train 0 epochs"),
    ],
)
def test_heads_and_settings_that_do_not_exist_are_refused(name: str, options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        build_head(name, SUPPORT, encoder=ENCODER, options=options)


def test_validation_images_reach_the_head():
    validation = Validation(Features(FEATURES), LABELS, torch.arange(12) % 3)
    chosen = build_head("tip_adapter", SUPPORT, encoder=ENCODER, validation=validation)(ZERO_SHOT)
    assert isinstance(chosen, TipAdapter)
    assert chosen.choice.by == "validation"


def test_settings_are_read_from_toml(tmp_path: Path):
    path = tmp_path / "head.toml"
    path.write_text("alpha = 2.0\n[schedule]\nepochs = 3\n")
    assert read_options(path) == {"alpha": 2.0, "schedule": {"epochs": 3}}
    path.write_text("alpha =")
    with pytest.raises(ValueError, match=r"head\.toml is not valid TOML"):
        read_options(path)
