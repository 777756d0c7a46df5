import math

import pytest
import torch

from inputs.supports import unit
from rag_clip.classifiers.zero_shot import zero_shot, zero_shots
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.prompts.templates import template_prompts
from rag_clip.refinement.choose_prompts import align_prompts, choose_prompts, describe_choice
from rag_clip.refinement.choose_texts import FOLDS, _Mixture, choose_texts
from rag_clip.refinement.sampling import row_hashes
from rag_clip.testing import ToyEncoder

SCALE = 30.0
CLASSES, WIDTH, IMAGES = 8, 64, 1000


def world(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw texts that name what is there, texts that are far from it, and images of a tight cluster a class."""
    draw = torch.Generator().manual_seed(seed)
    good = unit(torch.randn(CLASSES, WIDTH, generator=draw))
    bad = unit(torch.randn(CLASSES, WIDTH, generator=draw) - 1)
    truth = torch.randint(CLASSES, (IMAGES,), generator=draw)
    images = unit(good[truth] + 0.12 * torch.randn(IMAGES, WIDTH, generator=draw) + 0.3)
    return good, bad, images.half().float()


def by_the_equations(images: torch.Tensor, texts: torch.Tensor) -> float:
    """Score texts as the docstring of the module says, an image at a time, in float64."""
    x, folds = images.double(), row_hashes(images) % FOLDS
    z = (SCALE * x @ texts.double().T).softmax(1)
    score = 0.0
    for fold in range(FOLDS):
        other = folds != fold
        n, s = z[other].sum(0), z[other].T @ x[other]
        m = (s + 2 * x.mean(0)) / (n + 2)[:, None]
        var = (x[other] ** 2).mean(0) - (2 * m * s - n[:, None] * m**2).sum(0) / n.sum()
        var = var.clamp(min=0.1 * float(var.mean()))
        for row in x[folds == fold]:
            logs = [
                math.log(n[k] / n.sum()) - 0.5 * float((((row - m[k]) ** 2) / var).sum() + var.log().sum())
                for k in range(len(texts))
            ]
            score += float(torch.tensor(logs, dtype=torch.float64).logsumexp(0))
    return score


def test_the_score_equals_the_equations() -> None:
    good, bad, images = world()
    folds = row_hashes(images) % FOLDS
    for texts in (good, bad):
        found = _Mixture(images, folds, SCALE * images @ texts.T).score
        assert found == pytest.approx(by_the_equations(images, texts), rel=1e-5)


def test_a_trial_says_about_what_the_change_is_worth() -> None:
    good, bad, images = world()
    mixture = _Mixture(images, row_hashes(images) % FOLDS, SCALE * images @ good.T)
    unchanged = by_the_equations(images, good)
    for row in range(CLASSES):
        changed = good.clone()
        changed[row] = bad[row]
        trial = mixture.attempt(row, SCALE * images @ bad[row])
        exact = by_the_equations(images, changed) - unchanged
        assert trial is not None
        assert trial.gain == pytest.approx(exact, rel=0.35)


def test_texts_that_name_what_is_there_are_chosen_for_the_set_and_for_each_class() -> None:
    good, bad, images = world()
    assert choose_texts(images, [bad, good], scale=SCALE).of_class.tolist() == [1] * CLASSES
    first, second = good.clone(), bad.clone()
    first[:3], second[:3] = bad[:3], good[:3]
    choice = choose_texts(images, [first, second], scale=SCALE)
    assert choice.best == 0
    assert choice.scores[0] > choice.scores[1]
    assert choice.of_class.tolist() == [1] * 3 + [0] * 5
    assert (choice.gains > 4).tolist() == [True] * 3 + [False] * 5


def test_a_text_that_is_hardly_better_is_not_taken() -> None:
    good, _, images = world()
    near = unit(good + 0.01 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(1)))
    choice = choose_texts(images, [good, near], scale=SCALE)
    assert choice.of_class.tolist() == [choice.best] * CLASSES
    assert choice.gains.tolist() == [0] * CLASSES


def test_nothing_depends_on_the_order_of_images_or_classes() -> None:
    good, bad, images = world()
    first, second = good.clone(), bad.clone()
    first[:3], second[:3] = bad[:3], good[:3]
    found = choose_texts(images, [first, second], scale=SCALE).of_class
    rows, classes = torch.randperm(IMAGES), torch.randperm(CLASSES)
    moved = choose_texts(images[rows], [first[classes], second[classes]], scale=SCALE).of_class
    assert torch.equal(moved, found[classes])


@pytest.mark.parametrize("images", [torch.empty(0, WIDTH), world()[2][:15], world()[2][:1].repeat(50, 1)])
def test_few_images_and_one_image_many_times_leave_the_first_texts(images: torch.Tensor) -> None:
    good, bad, _ = world()
    choice = choose_texts(images, [bad, good], scale=SCALE)
    assert choice.of_class.tolist() == [0] * CLASSES
    assert choice.images == len(images)


def test_candidates_of_different_shapes_are_refused() -> None:
    good, bad, images = world()
    with pytest.raises(ValueError, match="all of the same"):
        choose_texts(images, [good, bad[:3]], scale=SCALE)


LABELS = LabelSet(("red", "green", "blue", "yellow"), ids=("r", "g", "b", "y"))


def nonsense(labels: LabelSet = LABELS) -> Prompts:
    """Return prompts of which three name another colour each, and yellow its own."""
    names = {"red": "green", "green": "blue", "blue": "red", "yellow": "yellow"}
    return Prompts(labels, tuple((PromptText(f"{names[name]} thing", 1.0),) for name in labels.names))


def test_chosen_prompts_have_the_texts_of_each_class_and_say_who_decided() -> None:
    encoder = ToyEncoder()
    moved = LabelSet(("blue", "yellow", "red", "green"), ids=("b", "y", "r", "g"))
    candidates = align_prompts({"wrong": nonsense(), "names": template_prompts(moved)})
    assert candidates["names"].labels == LABELS
    texts = zero_shots(list(candidates.values()), encoder)
    draw = torch.Generator().manual_seed(0)
    truth = torch.arange(400) % 4
    images = unit(texts[1].weights[truth] + 0.02 * torch.randn(400, encoder.dim, generator=draw))
    chosen = choose_prompts(candidates, texts, images)
    assert chosen.prompts.texts[0] == candidates["names"].texts[0]
    facts = chosen.prompts.provenance["chosen"]
    assert facts["best"] == "names"
    assert sum(facts["classes"].values()) == 4
    assert describe_choice(facts, 4).startswith("400 images chose the texts of ")
    again = zero_shot(chosen.prompts, encoder, allow_other_encoder=True)
    torch.testing.assert_close(chosen.classifier.weights, again.weights)


def test_prompts_of_other_classes_or_another_average_are_refused() -> None:
    other = template_prompts(LabelSet(("red", "green", "blue", "pink")))
    with pytest.raises(ValueError, match="b has other classes than a, such as 'yellow'"):
        align_prompts({"a": nonsense(), "b": other})
    cosines = Prompts(LABELS, nonsense().texts, {"average": "cosines"})
    with pytest.raises(ValueError, match="averages vectors and the other cosines"):
        align_prompts({"a": nonsense(), "b": cosines})
