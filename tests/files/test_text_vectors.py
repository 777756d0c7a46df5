"""Vectors beside a prompts file: what is kept, when it is used, and that it never stands in the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from inputs.pictures import colour_prompts, picture, write_images
from rag_clip.classifiers.reuse import Reuse
from rag_clip.classifiers.zero_shot import encode_texts, zero_shot
from rag_clip.data import EncodedTexts, Fingerprint, LabelSet, Prompts, PromptText
from rag_clip.files import text_vectors
from rag_clip.files.outputs import made_by
from rag_clip.files.prompts import read_prompts, write_prompts
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.enhance import enhance, enhance_labels
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.pipelines.explain import explain
from rag_clip.pipelines.running import Running
from rag_clip.progress import silent
from rag_clip.testing import ToyEncoder

NAMES = ("red", "green", "blue")
QUIET = Running(0, report=silent)


@dataclass(frozen=True, slots=True)
class Counting(ToyEncoder):
    """Notes each text that it is asked for."""

    asked: list[str] = field(default_factory=list)

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        self.asked.extend(texts)
        return ToyEncoder.encode_text(self, texts)


def asked_by(prompts: Prompts, encoder: Counting | None = None) -> list[str]:
    """Return the texts that composing the class weights encodes; the weights are those of encoding all anew."""
    encoder = encoder or Counting()
    anew = zero_shot(replace(prompts, encoded=None), ToyEncoder())
    assert torch.equal(zero_shot(prompts, encoder).weights, anew.weights)
    return encoder.asked


@pytest.fixture(params=["p.parquet", "p.json"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    made: Path = tmp_path / request.param
    enhance_labels(LabelSet(NAMES), output=made, encoder=ToyEncoder(), recipe="templates", running=QUIET)
    return made


def beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.vectors")


def test_jobs_encode_no_text_that_enhance_has_encoded(path: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "in.parquet", [picture(name) for name in NAMES], truth=NAMES, label=NAMES)
    counting = Counting()
    classify([images], prompts=path, output=tmp_path / "c.parquet", encoder=counting, running=QUIET)
    evaluate([images], prompts=path, output=tmp_path / "r.parquet", encoder=counting, running=QUIET)
    explain(path, "red", image=picture("red"), encoder=counting, report=silent)
    assert counting.asked == []
    anew = replace(read_prompts(path), encoded=None)
    classify([images], prompts=anew, output=tmp_path / "d.parquet", encoder=counting, running=QUIET)
    assert sorted(counting.asked) == sorted(text.text for group in anew.texts for text in group)
    assert pq.read_table(tmp_path / "c.parquet").equals(pq.read_table(tmp_path / "d.parquet"))


def test_the_index_of_the_prompts_is_not_opened_for_texts_that_are_all_known(path: Path, tmp_path: Path) -> None:
    assert Reuse(index=str(tmp_path / "absent")).vectors([read_prompts(path)], ToyEncoder()) is None


def test_of_edited_prompts_only_what_changed_is_encoded(path: Path) -> None:
    prompts = read_prompts(path)
    first, *others = prompts.texts
    edited = replace(prompts, texts=((*first[1:], PromptText("a red flag", first[0].weight)), *others))
    assert asked_by(edited) == ["a red flag"]
    write_prompts(edited, path)
    assert asked_by(read_prompts(path)) == ["a red flag"]
    texts = [text.text for group in edited.texts for text in group if text.text != "a red flag"]
    assert pq.read_table(beside(path))["text"].to_pylist() == texts


def test_vectors_of_another_encoder_precision_or_device_are_not_used(path: Path) -> None:
    encoded = read_prompts(path).encoded
    read = encoded.read() if encoded else None
    assert read is not None
    assert (read.encoder, read.device) == (ToyEncoder().fingerprint, "cpu")
    assert len(read.vectors_for(read.encoder, "cpu")) == len(read.texts)
    for encoder, device in (
        (read.encoder, "cuda"),
        (replace(read.encoder, precision="fp16"), "cpu"),
        (replace(read.encoder, weights="other"), "cpu"),
    ):
        assert read.vectors_for(encoder, device) == {}
    assert len(asked_by(replace(read_prompts(path), provenance={}), Counting(name="other"))) == len(read.texts)


def test_prompts_are_equal_with_and_without_vectors(path: Path) -> None:
    with_vectors = read_prompts(path)
    beside(path).unlink()
    assert read_prompts(path) == with_vectors == replace(with_vectors, encoded=None)
    assert len(asked_by(read_prompts(path))) == sum(map(len, with_vectors.texts))


@pytest.mark.parametrize("damage", ["byte", "half", "empty", "seal", "text"])
def test_damaged_vectors_are_not_used_and_written_anew(path: Path, damage: str) -> None:
    content, whole = bytearray(beside(path).read_bytes()), len(read_prompts(path).texts)
    if damage == "seal":
        pq.write_table(pq.read_table(beside(path)).replace_schema_metadata({text_vectors.METADATA: "{}"}), beside(path))
    elif damage == "text":
        beside(path).write_text("not ours")
    else:
        content[len(content) // 2] ^= 1
        cut = {"byte": len(content), "half": len(content) // 2, "empty": 0}[damage]
        beside(path).write_bytes(content[:cut])
    assert len(asked_by(read_prompts(path))) >= whole
    enhance_labels(LabelSet(NAMES), output=path, encoder=ToyEncoder(), recipe="templates", running=QUIET)
    if damage == "text":
        assert beside(path).read_text() == "not ours"
    else:
        assert asked_by(read_prompts(path)) == []


@pytest.mark.parametrize("there", ["folder", "pipe", "parquet"])
def test_what_others_have_at_the_place_stays_and_stops_nothing(tmp_path: Path, there: str) -> None:
    path = tmp_path / "p.parquet"
    if there == "folder":
        beside(path).mkdir()
    elif there == "pipe":
        os.mkfifo(beside(path))
    else:
        pq.write_table(pa.table({"text": ["mine"]}), beside(path))
    enhance_labels(LabelSet(NAMES), output=path, encoder=ToyEncoder(), recipe="templates", running=QUIET)
    assert len(asked_by(read_prompts(path))) == sum(map(len, read_prompts(path).texts))
    kinds = {"folder": beside(path).is_dir(), "pipe": beside(path).is_fifo(), "parquet": beside(path).is_file()}
    assert kinds[there]
    assert there != "parquet" or pq.read_table(beside(path))["text"].to_pylist() == ["mine"]


def test_prompts_without_known_vectors_take_an_older_file_away(path: Path) -> None:
    write_prompts(colour_prompts(), path)
    assert not beside(path).exists()


def test_a_name_too_long_for_a_second_file_keeps_none(tmp_path: Path) -> None:
    path = tmp_path / f"{'p' * 250}.json"
    enhance_labels(LabelSet(NAMES), output=path, encoder=ToyEncoder(), recipe="templates", running=QUIET)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert len(read_prompts(path).texts) == 3


def test_more_than_the_limit_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = read_prompts(path)
    monkeypatch.setattr(text_vectors, "MOST_BYTES", 4 * 32 * (sum(map(len, prompts.texts)) - 1))
    write_prompts(prompts, path)
    assert not beside(path).exists()


def test_the_vectors_are_no_prompts_file(path: Path) -> None:
    assert made_by(beside(path)) == ""


def test_prompts_in_memory_carry_the_vectors_of_their_captions() -> None:
    encoded = EncodedTexts(("red",), ToyEncoder().encode_text(["red"]).numpy(), ToyEncoder().fingerprint, "cpu")
    texts = tuple((PromptText(name, 1.0),) for name in NAMES)
    assert asked_by(Prompts(LabelSet(NAMES), texts, encoded=encoded)) == ["green", "blue"]
    assert enhance(NAMES, encoder=ToyEncoder(), recipe="templates", report=silent).encoded is None


def test_vectors_of_another_width_are_not_used() -> None:
    fingerprint = Fingerprint("toy", "", "toy-32", "8x8")
    narrow = EncodedTexts(("red",), ToyEncoder(dim=8).encode_text(["red"]).numpy(), fingerprint, "cpu")
    prompts = Prompts(LabelSet(("red",)), ((PromptText("red", 1.0),),), encoded=narrow)
    assert encode_texts([prompts], ToyEncoder()).vectors.shape == (1, 32)
