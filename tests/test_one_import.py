"""Class names to predictions in a script that imports one name."""

from __future__ import annotations

from pathlib import Path

import pytest

from inputs.pictures import picture, write_images

SCRIPT = """
import rag_clip

labels = rag_clip.LabelSet(("red", "green", "blue"))
rag_clip.write_labels(labels, "labels.json")
prompts = rag_clip.enhance("labels.json", encoder="demo", recipe="templates", report=rag_clip.silent)
rag_clip.write_prompts(prompts, "prompts.parquet")
quiet = rag_clip.Running(workers=0, report=rag_clip.silent)
done = rag_clip.classify("images.parquet", prompts="prompts.parquet", output="out.parquet", running=quiet)
print(done.rows, done.failed)
print(done.to_polars(["truth", "label", "score"]).columns, done.to_polars()["label"].is_in(labels.names).all())
"""


def test_ten_lines_with_one_import_lead_from_names_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images.parquet", [picture("red"), picture("blue")], truth=["red", "blue"])
    monkeypatch.chdir(tmp_path)
    exec(SCRIPT, {"__name__": "__main__"})  # test_docs runs such a script, of the README, as a program of its own
    assert capfd.readouterr() == ("2 0\n['truth', 'label', 'score'] True\n", "")
