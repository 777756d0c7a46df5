"""Names as words, and what is said of names that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_clip.cli import app
from rag_clip.data import LabelSet
from rag_clip.files.prompts import read_prompts
from rag_clip.files.readable_names import name_notes, readable_names
from rag_clip.images.labelled import class_numbers


def test_names_become_words_and_keep_their_identity() -> None:
    labels = LabelSet(("fire_truck", "AnnualCrop", "SeaLake", "St. Bernard", "McLaren MP4-12C", "iPod", "cat"))
    readable = readable_names(labels)
    assert readable.names == ("fire truck", "Annual Crop", "Sea Lake", "St. Bernard", "McLaren MP4-12C", "iPod", "cat")
    assert readable.ids == labels.names
    assert class_numbers([*labels.names, *readable.names], readable) == [*range(7), *range(7)]
    assert readable_names(readable) == readable


def test_images_labelled_by_the_former_names_are_of_the_classes_under_ids_too() -> None:
    labels = readable_names(LabelSet(("AnnualCrop", "sea_lake"), ids=("0", "1")))
    assert class_numbers(["AnnualCrop", "sea_lake", "1", "annual crop"], labels) == [0, 1, 1, 0]


def test_numbers_before_every_name_go_and_numbers_of_names_stay() -> None:
    birds = LabelSet(("001.Black_footed_Albatross", "002.Laysan_Albatross"))
    assert readable_names(birds).names == ("Black footed Albatross", "Laysan Albatross")
    assert readable_names(LabelSet(("747 jet", "biplane"))).names == ("747 jet", "biplane")


def test_names_that_would_become_one_are_refused() -> None:
    with pytest.raises(ValueError, match="'sea_lake' and 'sea lake' would both read 'sea lake'"):
        readable_names(LabelSet(("sea_lake", "sea lake")))


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (("cat", "dog"), ()),
        (("tiger shark", "Persian (cat)", "हिन्दी", "3 Series"), ()),
        (
            ("cat, dog, bird",),
            ("there is one class, 'cat, dog, bird'; if these are several names, put each on a line of its own",),
        ),
        (
            ("cat",),
            ("there is one class, 'cat', so every image gets it; add a second, such as a class for the rest",),
        ),
        (
            ("ca\x07t", "dog\u200b", "owl"),
            (
                "2 of 3 names ('ca\\x07t', 'dog\\u200b') contain an invisible character, such as a control "
                "character; type them again",
            ),
        ),
        (
            ("fire_truck", "AnnualCrop", "cat"),
            (
                "1 of 3 names ('fire_truck') contain an underscore; --readable-names turns them into words",
                "1 of 3 names ('AnnualCrop') join words; --readable-names turns them into words",
            ),
        ),
        (
            ("001.cat", "002.dog"),
            ("every name begins with a number, such as '001.cat'; --readable-names turns them into words",),
        ),
        (
            ("n01440764", "n01443537"),
            ("2 of 2 names ('n01440764', 'n01443537') are WordNet ids; add the names",),
        ),
        (("1", "7"), ("2 of 2 names ('1', '7') are numbers; give the names of the classes",)),
    ],
)
def test_what_is_odd_about_names_is_said(names: tuple[str, ...], notes: tuple[str, ...]) -> None:
    assert name_notes(LabelSet(names)) == notes


def test_names_that_differ_by_id_alone_are_said() -> None:
    notes = name_notes(LabelSet(("crane", "crane", "ibis"), ids=("n1", "n2", "n3")))
    assert notes == (
        "2 of 3 names ('crane (id n1)', 'crane (id n2)') share their names and differ only by id; give them "
        "different names, or synonyms",
    )


def enhance(folder: Path, *options: str) -> None:
    arguments = ["enhance", str(folder / "labels.txt"), "--recipe", "templates", "--model", "demo"]
    arguments += ["-o", str(folder / "p.parquet"), "--force", *options]
    assert app(arguments, result_action="return_value") == 0


def test_enhance_says_what_is_odd_and_makes_names_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.txt").write_text("fire_truck\nAnnualCrop\n")
    enhance(tmp_path)
    assert "note: 1 of 2 names ('fire_truck') contain an underscore; --readable-names" in capsys.readouterr().out
    assert read_prompts(tmp_path / "p.parquet").labels.names == ("fire_truck", "AnnualCrop")
    enhance(tmp_path, "--readable-names")
    assert "note:" not in capsys.readouterr().out
    prompts = read_prompts(tmp_path / "p.parquet")
    assert [group[0].text for group in prompts.texts] == ["a photo of a fire truck.", "a photo of a Annual Crop."]
    assert prompts.labels == LabelSet(("fire truck", "Annual Crop"), ids=("fire_truck", "AnnualCrop"))
    (tmp_path / "labels.txt").write_text("cat, dog, bird\n")
    enhance(tmp_path)
    assert "there is one class, 'cat, dog, bird'; if these are several names" in " ".join(
        capsys.readouterr().out.split()
    )
