from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from rag_clip.data import Fingerprint, LabelSet
from rag_clip.files.learned_prompts import LearnedPrompts, read_learned_prompts, write_learned_prompts

MADE_WITH = Fingerprint("toy", "tag", "weights", "8x8")
LABELS = LabelSet(("kite", "Café"), synonyms=(("dragon",), ()), templates=("a {}",))
PROMPTS = LearnedPrompts(
    LABELS, torch.eye(2), torch.arange(6.0).view(3, 2), "middle", {"encoder": asdict(MADE_WITH), "method": "coop"}
)


def test_prompts_come_back_as_they_were_written(tmp_path):
    write_learned_prompts(PROMPTS, tmp_path / "new" / "learned.safetensors")
    read = read_learned_prompts(tmp_path / "new" / "learned.safetensors", encoder=replace(MADE_WITH, precision="bf16"))
    assert (read.labels, read.position, read.provenance) == (LABELS, "middle", PROMPTS.provenance)
    assert torch.equal(read.weights, PROMPTS.weights)
    assert torch.equal(read.context, PROMPTS.context)
    assert [read.shared, replace(PROMPTS, context=torch.ones(2, 3, 2)).shared] == [True, False]


def test_prompts_of_another_encoder_or_of_an_unknown_one_are_refused(tmp_path):
    path = tmp_path / "learned.safetensors"
    write_learned_prompts(PROMPTS, path)
    with pytest.raises(ValueError, match=r"learned with toy .*, but the encoder is other .*; learn them again"):
        read_learned_prompts(path, encoder=replace(MADE_WITH, model="other"))
    write_learned_prompts(replace(PROMPTS, provenance={}), path)
    with pytest.raises(ValueError, match="do not say what encoder they are for"):
        read_learned_prompts(path, encoder=MADE_WITH)


def test_files_that_are_no_learned_prompts_are_named(tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors at all")
    save_file({"weights": torch.eye(2)}, tmp_path / "model.safetensors")
    for name, reason in (("text", "text.safetensors: "), ("model", "is not a file of learned prompts")):
        with pytest.raises(ValueError, match=reason):
            read_learned_prompts(tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no file of learned prompts"):
        read_learned_prompts(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"learned prompts are .safetensors files, found suffix '.json'"):
        write_learned_prompts(PROMPTS, tmp_path / "learned.json")
    with pytest.raises(ValueError, match="is a folder"):
        read_learned_prompts(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": torch.eye(3)}, "learned weights are"),
        ({"context": torch.ones(3, 3, 2)}, "expected"),
        ({"context": torch.ones(2)}, "expected"),
        ({"position": "left"}, "position 'left' is unknown; choose one of end, middle, front"),
        ({"context": torch.tensor([[float("nan")]])}, "not finite"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        replace(PROMPTS, **changes)
