from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rag_clip.data import Evidence, Fingerprint, LabelSet
from rag_clip.files.evidence import ClassEvidence, read_evidence, write_evidence
from rag_clip.files.outputs import check_outputs, made_by

MADE_WITH = Fingerprint("toy", "tag", "weights", "8x8")
LABELS = LabelSet(("kite", "Café"), synonyms=(("dragon",), ()), templates=("a {}",))


def source(start: float) -> Evidence:
    numbers = torch.arange(start, start + 8, dtype=torch.float64) / 3
    return Evidence(numbers[:2], numbers[2:].view(2, 3)[:, :3], numbers[:3])


EVIDENCE = ClassEvidence(
    LABELS,
    {"shot": source(0), "retrieved": source(5)},
    {"shot": 4, "retrieved": 9},
    {"encoder": asdict(MADE_WITH), "method": "evidence", "parts": [{"method": "merged"}]},
)


def same(first: Evidence, second: Evidence) -> bool:
    return all(torch.equal(getattr(first, part), getattr(second, part)) for part in ("counts", "sums", "squares"))


def test_evidence_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "evidence.safetensors"
    write_evidence(EVIDENCE, path)
    read = read_evidence(path, encoder=replace(MADE_WITH, precision="bf16"))
    assert (read.labels, read.images, read.provenance) == (LABELS, EVIDENCE.images, EVIDENCE.provenance)
    assert list(read.sources) == ["shot", "retrieved"]
    assert all(same(read.sources[name], EVIDENCE.sources[name]) for name in read.sources)
    assert made_by(path) == "support evidence"


def test_the_file_is_written_over_only_by_its_own_verb(tmp_path: Path) -> None:
    path = tmp_path / "evidence.safetensors"
    write_evidence(EVIDENCE, path)
    check_outputs([(path, "support evidence")])
    with pytest.raises(ValueError, match="was not written by `rag-clip learn`"):
        check_outputs([(path, "learn")])
    check_outputs([(path, "learn")], force=True)


def test_sources_add_up_by_name_whatever_the_order_of_the_classes() -> None:
    moved = ClassEvidence(LABELS, {"shot": source(1), "found": source(2)}, {"shot": 1}).arrange(
        LabelSet(("Café", "kite"))
    )
    both = EVIDENCE + moved
    assert list(both.sources) == ["shot", "retrieved", "found"]
    assert same(both.sources["shot"], source(0) + source(1))
    assert same(both.sources["found"], source(2))
    assert both.images == {"shot": 5, "retrieved": 9}
    assert same((2 * both).total, (both * 2.0).total)
    assert same((2 * EVIDENCE).sources["shot"], 2 * source(0))
    assert same(both.without("found").without("retrieved").total, source(0) + source(1))
    assert both.recorded.encoder == asdict(MADE_WITH)


def test_evidence_of_another_encoder_or_other_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evidence.safetensors"
    write_evidence(EVIDENCE, path)
    other = replace(MADE_WITH, model="other")
    with pytest.raises(ValueError, match=r"evidence was made with toy .*, but the encoder is other .*; make it again"):
        read_evidence(path, encoder=other)
    with pytest.raises(ValueError, match="evidence was made with other"):
        EVIDENCE + replace(EVIDENCE, provenance={"encoder": asdict(other)})
    with pytest.raises(ValueError, match="'Café' is in one of them only"):
        EVIDENCE + replace(EVIDENCE, labels=LabelSet(("kite", "bird")))
    with pytest.raises(ValueError, match="has no source 'batch'; it has shot, retrieved"):
        EVIDENCE.without("batch")
    with pytest.raises(ValueError, match="'shot' is the only source"):
        EVIDENCE.without("retrieved").without("shot")


def test_files_that_are_no_evidence_or_damaged_are_named(tmp_path: Path) -> None:
    path = tmp_path / "evidence.safetensors"
    save_file({"counts": torch.eye(2)}, path)
    with pytest.raises(ValueError, match=r"evidence.safetensors: is not a file of evidence; write one with"):
        read_evidence(path)
    path.write_text("no tensors at all")
    with pytest.raises(ValueError, match=r"evidence.safetensors: "):
        read_evidence(path)
    write_evidence(EVIDENCE, path)
    content = path.read_bytes()
    for place in (len(content) - 1, content.index(b"kite")):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"evidence.safetensors: is damaged .*; make the evidence again"):
            read_evidence(path)
    path.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=r"evidence.safetensors: "):
        read_evidence(path)
    with pytest.raises(FileNotFoundError, match="there is no file of evidence"):
        read_evidence(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"evidence is in .safetensors files, found suffix '.json'"):
        write_evidence(EVIDENCE, tmp_path / "evidence.json")
    with pytest.raises(ValueError, match="is a folder"):
        read_evidence(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "evidence.safetensors"
    write_evidence(EVIDENCE, path)
    broken = replace(EVIDENCE, provenance={"never": object()})
    with pytest.raises(TypeError):
        write_evidence(broken, path)
    assert [each.name for each in tmp_path.iterdir()] == ["evidence.safetensors"]
    assert set(load_file(path)) == {
        f"{name}.{part}" for name in ("shot", "retrieved") for part in ("counts", "sums", "squares")
    }


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        ({}, "the evidence has no source"),
        (
            {"shot": Evidence(torch.ones(3), torch.ones(3, 4), torch.ones(4))},
            r"has the shapes \(3,\), \(3, 4\), \(4,\)",
        ),
        ({"shot": Evidence(torch.ones(2), torch.ones(2, 4), torch.ones(3))}, "expected"),
        ({"shot": Evidence(torch.ones(2), torch.full((2, 3), torch.nan), torch.ones(3))}, "not finite"),
        ({"shot": Evidence(-torch.ones(2), torch.ones(2, 3), torch.ones(3))}, "counts or squares below zero"),
    ],
)
def test_values_that_do_not_fit_are_refused(sources: dict[str, Evidence], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ClassEvidence(LABELS, sources)
