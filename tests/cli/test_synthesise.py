"""`rag-clip support synthesise` as its users meet it, with the bundled painter."""

from __future__ import annotations

import json
from pathlib import Path

from inputs.command_line import Outcome, run
from rag_clip.data import LabelSet
from rag_clip.demo.concepts import concepts
from rag_clip.files.prompts import write_prompts
from rag_clip.files.support import read_support
from rag_clip.prompts.templates import template_prompts
from rag_clip.testing import check_support

NAMES = [concept.name for concept in concepts() if concept.band == "head"][:2]
LABELS = LabelSet(tuple(NAMES), templates=("a photo of {}",))


def synthesise(*arguments: object, folder: Path) -> Outcome:
    write_prompts(template_prompts(LABELS), folder / "prompts.parquet")
    given = ("support", "synthesise", "prompts.parquet", "-o", "s.parquet", "--model", "demo", *arguments)
    return run(*given, folder=folder)


def test_images_are_painted_for_names_and_the_best_kept(tmp_path: Path) -> None:
    options = ("--painter", "demo", "--per-class", 2, "--keep", 1, "--steps", 2)
    code, out, _ = synthesise(*options, folder=tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "s.parquet: 2 images of 2 classes, of 4 painted"
    assert lines[2] == "  all painted images are in s"
    support = read_support(tmp_path / "s.parquet")
    check_support(support, LABELS)
    assert support.targets.tolist() == [[1, 0], [0, 1]]
    assert {key: support.provenance["painter"][key] for key in ("name", "guidance", "steps")} == {
        "name": "demo",
        "guidance": 2.0,
        "steps": 2,
    }
    code, out, _ = synthesise(*options, "--json", "--with-images", folder=tmp_path)
    facts = json.loads(out)
    assert (code, facts["images"], facts["painted"], facts["black"], facts["missing"]) == (0, 2, 4, 0, [])


def test_a_painter_that_cannot_be_loaded_and_wrong_numbers_are_named(tmp_path: Path) -> None:
    code, _, errors = synthesise("--painter", "demo", "--size", 64, 64, folder=tmp_path)
    assert (code, errors.splitlines()[-1]) == (1, "rag-clip: the demo painter paints 32 x 32 pixels; leave size out")
    code, _, errors = synthesise("--painter", "demo", "--keep", 0, folder=tmp_path)
    assert (code, errors.splitlines()[-1]) == (1, "rag-clip: batch is 8 and keep is 0; give at least 1")
    code, _, errors = synthesise("--painter", "demo", "--steps", 0, folder=tmp_path)
    assert (code, errors.partition("(")[2]) == (
        1,
        "ValueError: steps is 0; give 1 to 1000); those are kept in s, run the same again to go on\n",
    )
