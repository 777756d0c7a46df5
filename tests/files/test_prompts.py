import json
import resource
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.files.prompts import UNKNOWN_PROVENANCE, read_prompts, write_prompts

LABELS = LabelSet(
    names=("cat", "fire {truck}", "été"),
    ids=("c1", "c2", "c3"),
    synonyms=(("feline", "puss"), (), ()),
    groups=("animal", "vehicle", ""),
    templates=("a photo of a {}.", "the {}."),
)
CAT = (
    PromptText("a photo of a cat.", 0.375),
    PromptText("the cat.", 0.375),
    PromptText('a "cat"\non a mat', 0.125, "context", "cc3m", "id-1", 0.5, 0),
    PromptText("cat, 猫", 0.125, "context", "cc3m", "id-2", 0.25, 3),
)
PROMPTS = Prompts(
    LABELS,
    (CAT, (PromptText("a photo of a fire {truck}.", 1.0),), (PromptText("the été.", 1.0),)),
    {"encoder": {"model": "toy"}, "method": "retrieved", "settings": {"weight": 0.25}, "index": "here"},
)


@pytest.fixture(params=["prompts.parquet", "prompts.json"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_prompts_read_back_equal(path: Path):
    write_prompts(PROMPTS, path)
    assert read_prompts(path) == PROMPTS
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_weights_that_sum_to_one_only_nearly_read_back_unchanged(path: Path):
    thirds = tuple(PromptText(f"text {index}", 1 / 3 + index * 1e-12) for index in range(3))
    prompts = Prompts(LabelSet(("one",)), (thirds,), UNKNOWN_PROVENANCE)
    write_prompts(prompts, path)
    assert read_prompts(path) == prompts


def test_a_parquet_file_is_a_flat_table_in_polars(tmp_path: Path):
    write_prompts(PROMPTS, tmp_path / "prompts.parquet")
    frame = pl.read_parquet(tmp_path / "prompts.parquet")
    assert frame.columns == ["label", "class", "text", "weight", "role", "source", "evidence", "score", "rank"]
    assert frame.row(3) == ("cat", 0, "cat, 猫", 0.125, "context", "cc3m", "id-2", 0.25, 3)
    assert frame["class"].to_list() == [0, 0, 0, 0, 1, 2]


def test_rows_deleted_in_polars_leave_weights_that_sum_to_one(tmp_path: Path):
    path = tmp_path / "prompts.parquet"
    write_prompts(PROMPTS, path)
    pl.read_parquet(path).filter(pl.col("evidence") != "id-1", pl.col("text") != "the cat.").reverse().write_parquet(
        path
    )
    edited = read_prompts(path)
    assert edited.labels == LabelSet(LABELS.names)
    assert edited.texts[0] == (replace(CAT[3], weight=0.25), replace(CAT[0], weight=0.75))
    assert edited.provenance == UNKNOWN_PROVENANCE


def test_metadata_kept_by_the_editor_keeps_label_set_and_provenance(tmp_path: Path):
    path = tmp_path / "prompts.parquet"
    write_prompts(PROMPTS, path)
    metadata = {"rag_clip.prompts": pl.read_parquet_metadata(path)["rag_clip.prompts"]}
    pl.read_parquet(path).filter(pl.col("role") == "anchor").write_parquet(path, metadata=metadata)
    edited = read_prompts(path)
    assert (edited.labels, edited.provenance) == (PROMPTS.labels, PROMPTS.provenance)
    assert [text.weight for text in edited.texts[0]] == [0.5, 0.5]


def test_lines_deleted_and_weights_edited_in_json_are_rescaled(tmp_path: Path):
    path = tmp_path / "prompts.json"
    write_prompts(PROMPTS, path)
    lines = [line for line in path.read_text("utf-8").splitlines() if "id-1" not in line]
    path.write_text("\n".join(lines).replace('"weight": 0.125', '"weight": 2.25'), "utf-8-sig")
    assert read_prompts(path).texts[0] == tuple(
        replace(text, weight=weight) for text, weight in zip((*CAT[:2], CAT[3]), (0.125, 0.125, 0.75), strict=True)
    )


def test_a_text_written_by_hand_needs_only_text_and_weight(tmp_path: Path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"classes": [{"name": "cat", "texts": [{"text": "my cat", "weight": 3}]}]}))
    assert read_prompts(path) == Prompts(
        LabelSet(("cat",)), ((PromptText("my cat", 1.0, source=""),),), UNKNOWN_PROVENANCE
    )


def _edited(path: Path, **changes: pl.Expr) -> None:
    metadata = {"rag_clip.prompts": pl.read_parquet_metadata(path)["rag_clip.prompts"]}
    pl.read_parquet(path).with_columns(**changes).write_parquet(path, metadata=metadata)


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf"), None])
def test_an_impossible_weight_is_refused_with_its_row(tmp_path: Path, weight: float | None):
    path = tmp_path / "prompts.parquet"
    write_prompts(PROMPTS, path)
    _edited(path, weight=pl.when(pl.col("text") == "the cat.").then(weight).otherwise(pl.col("weight")))
    with pytest.raises(ValueError, match=rf"prompts.parquet: row 2 has weight {weight}; weights are numbers from 0 up"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["prompts.parquet", "prompts.json"])
def test_a_context_may_be_subtracted_and_an_anchor_may_not(tmp_path: Path, name: str):
    texts = (PromptText("a cat", 1.0), PromptText("grey fur", 0.25, "context"), PromptText("a day", -0.25, "context"))
    prompts = Prompts(LabelSet(("cat",)), (texts,))
    write_prompts(prompts, tmp_path / name)
    assert read_prompts(tmp_path / name).texts == (texts,)
    with pytest.raises(
        ValueError, match="class 'cat' has a weight that is not finite, or an anchor with a negative one"
    ):
        Prompts(LabelSet(("cat",)), ((PromptText("a cat", -0.5), PromptText("grey fur", 1.5, "context")),))


def test_a_class_of_zero_weights_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "prompts.parquet"
    write_prompts(PROMPTS, path)
    _edited(path, weight=pl.lit(0))
    with pytest.raises(ValueError, match=r"the weights of class 'cat' sum to 0.0; give at least one text a weight"):
        read_prompts(path)


def test_a_class_without_texts_is_refused_by_name(tmp_path: Path):
    write_prompts(PROMPTS, tmp_path / "prompts.parquet")
    metadata = {"rag_clip.prompts": pl.read_parquet_metadata(tmp_path / "prompts.parquet")["rag_clip.prompts"]}
    frame = pl.read_parquet(tmp_path / "prompts.parquet")
    frame.filter(pl.col("label") != "cat").write_parquet(tmp_path / "prompts.parquet", metadata=metadata)
    with pytest.raises(ValueError, match="class 'cat' has no text left; keep at least one"):
        read_prompts(tmp_path / "prompts.parquet")
    (tmp_path / "prompts.json").write_text(json.dumps({"classes": [{"name": "dog", "texts": []}]}))
    with pytest.raises(ValueError, match="class 'dog' has no text left; keep at least one"):
        read_prompts(tmp_path / "prompts.json")


def test_a_class_lost_with_the_metadata_is_noticed_by_its_number(tmp_path: Path):
    path = tmp_path / "prompts.parquet"
    write_prompts(PROMPTS, path)
    pl.read_parquet(path).filter(pl.col("class") != 1).write_parquet(path)
    with pytest.raises(ValueError, match=r"class numbers are missing among its rows \(2 classes found\)"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": pl.lit("dog")}, "row 1 is of class 'dog', which its label set does not have"),
        ({"label": pl.lit(None, pl.String)}, "row 1 has no label; write the name of its class, or remove it"),
        ({"role": pl.lit("boss")}, "row 1 has role 'boss'; a text is one of anchor, context"),
        ({"text": pl.lit(" ")}, "row 1 has no text; remove it or write one"),
        ({"weight": pl.lit("much")}, "column 'weight' does not hold double values"),
    ],
)
def test_an_unusable_row_is_refused(tmp_path: Path, change: dict[str, pl.Expr], message: str):
    path = tmp_path / "prompts.parquet"
    write_prompts(PROMPTS, path)
    _edited(path, **change)
    with pytest.raises(ValueError, match=message):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", 'it needs a list "classes"'),
        ("{", "Expecting property name"),
        ('{"classes": [{"name": "cat"}]}', 'class 1 has no list "texts"'),
        ('{"classes": [{"name": "cat", "texts": ["a cat"]}]}', "class 'cat', text 1 has no text"),
        ('{"classes": [{"texts": [{"text": "a", "weight": 1}]}]}', "label 1 has no `name`"),
        ('{"classes": [{"name": "a", "texts": [{"text": "a", "weight": NaN}]}]}', "class 'a', text 1 has weight nan"),
        (
            '{"provenance": 3, "classes": [{"name": "a", "texts": [{"text": "a", "weight": 1}]}]}',
            "provenance is of type",
        ),
    ],
)
def test_json_that_is_no_prompts_file_is_refused(tmp_path: Path, content: str, message: str):
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "prompts.json")


def test_another_parquet_file_is_refused(tmp_path: Path):
    pl.DataFrame({"caption": ["a"]}).write_parquet(tmp_path / "captions.parquet")
    with pytest.raises(ValueError, match=r"has no column 'label'; it has caption"):
        read_prompts(tmp_path / "captions.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is not a readable Parquet file"):
        read_prompts(tmp_path / "broken.parquet")


def test_an_unknown_suffix_and_a_missing_file_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"prompts are .parquet or .json files, found suffix '.csv'"):
        write_prompts(PROMPTS, tmp_path / "prompts.csv")
    with pytest.raises(FileNotFoundError, match=r"there is no prompts file .*none.json"):
        read_prompts(tmp_path / "none.json")


def test_a_missing_folder_is_made_and_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path):
    write_prompts(PROMPTS, tmp_path / "new" / "prompts.json")
    assert read_prompts(tmp_path / "new" / "prompts.json") == PROMPTS
    (tmp_path / "prompts.parquet").mkdir()
    with pytest.raises(ValueError, match=r"prompts\.parquet is a folder; name a file"):
        write_prompts(PROMPTS, tmp_path / "prompts.parquet")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(path: Path):
    write_prompts(PROMPTS, path)
    before = path.read_bytes()
    many = tuple(PromptText(f"text {index} {index**9}", 1 / 5000) for index in range(5000))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*prompts.* File too large"):
            write_prompts(Prompts(LabelSet(("one",)), (many,)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
