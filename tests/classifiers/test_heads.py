from pathlib import Path

import pytest
import torch

from rag_clip.classifiers.gaussian import gaussian
from rag_clip.classifiers.heads import HEADS, build_head, read_options
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import Features, LabelSet, Support, Validation
from rag_clip.testing import ToyEncoder

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
WITHOUT_TEXT_TOWER = [name for name in HEADS if name != "coop"]


@pytest.mark.parametrize("name", WITHOUT_TEXT_TOWER)
def test_every_head_is_built_by_its_name_and_classifies(name: str):
    options = {"schedule": {"epochs": 2}} if "schedule" in HEADS[name].settings else {}
    head = build_head(name, SUPPORT, encoder=ENCODER, options=options)(ZERO_SHOT)
    logits = head(Features(FEATURES, others={"second": FEATURES.flip(1)}))
    assert head.labels == LABELS
    assert logits.shape == (12, 3)
    assert (logits.argmax(1) == torch.arange(12) % 3).float().mean() > 0.8


def test_the_settings_given_are_those_of_the_builder():
    alone = build_head("gaussian", SUPPORT, encoder=ENCODER, options={"alpha": 0.25})(ZERO_SHOT)
    torch.testing.assert_close(alone(Features(FEATURES)), gaussian(ZERO_SHOT, SUPPORT, alpha=0.25)(Features(FEATURES)))
    assert HEADS["gaussian"].settings == {"alpha": None, "text_samples": 1.0}


def test_heads_say_what_they_need():
    assert HEADS["tip_x"].needs == "support; may use validation"
    assert HEADS["como_f"].needs == "support, features by a second encoder, training; may use validation"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magic", {}, "unknown head 'magic'; known are tip_adapter, "),
        ("gaussian", {"beta": 1.0}, "gaussian has no setting 'beta'; it has alpha, text_samples"),
        ("gaussian", {"support": 1.0}, "gaussian has no setting 'support'"),
        ("gaussian", {"alpha": "much"}, "gaussian, setting alpha: .* found 'much'"),
        ("tip_adapter_f", {"schedule": {"epochs": 0}}, "tip_adapter_f, setting schedule: .*cannot train 0 epochs"),
    ],
)
def test_heads_and_settings_that_do_not_exist_are_refused(name: str, options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        build_head(name, SUPPORT, encoder=ENCODER, options=options)


def test_validation_images_reach_the_head():
    validation = Validation(Features(FEATURES), LABELS, torch.arange(12) % 3)
    chosen = build_head("tip_adapter", SUPPORT, encoder=ENCODER, validation=validation)(ZERO_SHOT)
    assert chosen.choice.by == "validation"


def test_settings_are_read_from_toml(tmp_path: Path):
    path = tmp_path / "head.toml"
    path.write_text("alpha = 2.0\n[schedule]\nepochs = 3\n")
    assert read_options(path) == {"alpha": 2.0, "schedule": {"epochs": 3}}
    path.write_text("alpha =")
    with pytest.raises(ValueError, match=r"head\.toml is not valid TOML"):
        read_options(path)
