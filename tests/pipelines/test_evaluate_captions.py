"""`evaluate --captioning`: written captions against references, in Python and by the verb."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run
from rag_clip.pipelines.evaluate_captions import evaluate_captions

pytest.importorskip("pycocoevalcap")

ROWS = {
    "caption": ["a red kite", None, "two boats on a lake", "a lamp", "a door"],
    "references": [["a red kite", "a kite"], ["x"], ["two boats on a lake"], [], ["a green gate"]],
}


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    pq.write_table(pa.table(ROWS), tmp_path / "captions.parquet")
    return tmp_path / "captions.parquet"


def test_rows_without_a_caption_or_a_reference_are_counted(captions: Path) -> None:
    summary = evaluate_captions(captions)
    assert (summary.captions, summary.references, summary.failed) == (3, 4, 2)
    value, low, high = summary.cider
    assert 0 <= low < value < high <= 10


def test_the_verb_prints_and_writes_both_measures(captions: Path) -> None:
    code, out, _ = run("evaluate", captions.name, "--captioning", "-o", "measures.parquet", folder=captions.parent)
    assert code == 3  # two rows failed
    assert "over 3 captions and 4 references, 2 failed" in out
    rows = pq.read_table(captions.parent / "measures.parquet").to_pylist()
    assert [row["measure"] for row in rows] == ["bleu4", "cider"]
    assert f"CIDEr {rows[1]['value']:.3f} ({rows[1]['low']:.3f}" in out
    again = run("evaluate", captions.name, "--captioning", "-o", "measures.parquet", folder=captions.parent)
    assert again.code == 3


def test_one_reference_may_be_a_string(tmp_path: Path) -> None:
    pq.write_table(pa.table({"mine": ["a kite", "b"], "theirs": ["a kite", "c"]}), tmp_path / "two.parquet")
    summary = evaluate_captions(tmp_path / "two.parquet", caption_column="mine", reference_column="theirs")
    assert (summary.captions, summary.failed) == (2, 0)


def test_bad_input_is_refused(captions: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="theirs"):
        evaluate_captions(captions, reference_column="theirs")
    pq.write_table(pa.table({"caption": [1, 2], "references": ["a", "b"]}), tmp_path / "numbers.parquet")
    with pytest.raises(ValueError, match=r"column 'caption' of .* has 1; give text"):
        evaluate_captions(tmp_path / "numbers.parquet")
    pq.write_table(pa.table({"caption": ["a", None], "references": ["a", "b"]}), tmp_path / "one.parquet")
    with pytest.raises(ValueError, match="has 1 row with a caption and a reference; give at least two"):
        evaluate_captions(tmp_path / "one.parquet")
    said = run("evaluate", "a", "b", "--captioning", folder=tmp_path).errors
    assert "compares one file of captions; 2 are given" in said
    said = run("evaluate", "a", "--captioning", "--model", "demo", folder=tmp_path).errors
    assert "--captioning compares texts and has no use for --model; leave it out" in said
