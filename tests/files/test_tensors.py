"""Sealed `.safetensors` files: what was written is read, and a flipped byte is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from rag_clip.files.tensors import read_tensors, write_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(2, dtype=torch.float64)}
FACTS = {"provenance": {"method": "é"}, "more": [1, 2]}


def read(path: Path, **settings: object) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    return read_tensors(path, key="k", foreign="is foreign", again="make it again", **settings)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_tensors({name: TENSORS[name] for name in sorted(TENSORS)}, tmp_path / "t.safetensors", key="k", facts=FACTS)
    return tmp_path / "t.safetensors"


def test_tensors_and_facts_are_read_as_they_were_written(path: Path) -> None:
    tensors, facts = read(path)
    assert facts == FACTS
    assert list(tensors) == ["a", "b"]
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert all(tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)


def test_a_flipped_byte_of_the_content_is_seen(path: Path) -> None:
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in (whole.index(b"method"), start, start + 20, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((ValueError, SafetensorError), match=r"is damaged .*; make it again"):
            read(path)


def test_other_files_are_refused_and_a_checksum_may_be_missing_only_where_it_is_said(path: Path) -> None:
    with pytest.raises(ValueError, match="is foreign"):
        read_tensors(path, key="other", foreign="is foreign", again="")
    with pytest.raises(ValueError, match="is foreign"):
        read(path, names=("a", "c"))
    save_file(TENSORS, path, metadata={"k": '{"provenance": {}}'})
    with pytest.raises(ValueError, match="is damaged"):
        read(path)
    assert read(path, sealed=False)[1] == {"provenance": {}}
    save_file(TENSORS, path, metadata={"k": "[]"})
    with pytest.raises(ValueError, match="has metadata without its provenance; make it again"):
        read(path, sealed=False)
