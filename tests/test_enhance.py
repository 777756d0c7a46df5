from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet
from rag_clip.enhance import Settings, enhance
from rag_clip.progress import Progress, StageClock
from rag_clip.prompt_file import read_prompts, write_prompts
from rag_clip.prompts.templates import template_prompts
from rag_clip.retrieval import Retrieval
from rag_clip.store import CollectionSchema, Store, caption_id, create_store, load_schema, open_store
from rag_clip.testing import ToyEncoder, check_prompts

ENCODER = ToyEncoder()
LABELS = LabelSet(("zorp", "blick", "quux"), templates=("a photo of a {}.",))
CAPTIONS = [
    "zorp red banner",
    "the zorp is a red thing",
    "blick flies blue",
    "a blue blick",
    "a photo of a zorpling .",
    *(f"nothing to see {number}" for number in range(20)),
]


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "index"
    with create_store(folder, schema=load_schema(), encoder=ENCODER.fingerprint, dim=ENCODER.dim) as store:
        vectors = ENCODER.encode_text(CAPTIONS).numpy().ravel()
        columns = {
            "id": [caption_id("toy", text) for text in CAPTIONS],
            "text": CAPTIONS,
            "source": ["toy"] * len(CAPTIONS),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, ENCODER.dim).cast(pa.list_(pa.float32())),
        }
        store.upsert(pa.RecordBatch.from_pydict(columns))
    return folder


@pytest.fixture(scope="module")
def store(location: Path) -> Iterator[Store]:
    with open_store(location, encoder=ENCODER.fingerprint) as store:
        yield store


@pytest.mark.parametrize("search", ["dense", "lexical", "hybrid"])
def test_each_class_gets_the_captions_that_name_it(store: Store, search: str):
    prompts = enhance(LABELS, encoder=ENCODER, store=store, method="retrieved", settings=Settings(search=search))
    found = [{text.text for text in group if text.role == "context"} for group in prompts.texts]
    assert found == [set(CAPTIONS[0:2]), set(CAPTIONS[2:4]), set()]
    evidence = [text for group in prompts.texts for text in group if text.role == "context"]
    assert [text.evidence for text in evidence] == [caption_id("toy", text.text) for text in evidence]
    assert {text.source for text in evidence} == {"toy"}
    assert prompts.provenance == {
        "encoder": asdict(ENCODER.fingerprint),
        "method": "retrieved",
        "settings": {
            "templates": ["a photo of a {}."],
            **asdict(Retrieval(search=search)),
        },
        "index": store.location,
        "without_captions": 1,
    }


def test_retrieval_classifies_images_of_names_that_the_encoder_has_not_learned(store: Store, tmp_path: Path):
    prompts = enhance(LABELS, encoder=ENCODER, store=store, method="retrieved", settings=Settings(weight=0.5))
    write_prompts(prompts, tmp_path / "prompts.parquet")
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    pixels[0, 2] = pixels[1, 0] = 255
    classifier = zero_shot(read_prompts(tmp_path / "prompts.parquet"), ENCODER)
    assert classifier(ENCODER.encode_pixels(pixels)).argmax(1).tolist() == [1, 0]


def test_names_are_dropped_from_captions_on_request(store: Store):
    dropped = enhance(LABELS, encoder=ENCODER, store=store, settings=Settings(names="dropped"))
    names = dict(enumerate(LABELS.names))
    context = [(row, t.text) for row, group in enumerate(dropped.texts) for t in group if t.role == "context"]
    assert context
    assert [text for row, text in context if names[row] in text.split()] == []


def test_an_unknown_way_with_names_is_refused():
    with pytest.raises(ValueError, match="names in captions are kept or dropped, found 'gone'"):
        Settings(names="gone")


def test_templates_need_no_store():
    prompts = enhance(LABELS, encoder=ENCODER, method="templates", settings=Settings(templates=("the {}",)))
    assert prompts.texts == template_prompts(LABELS, templates=("the {}",)).texts
    assert prompts.provenance == {
        "encoder": asdict(ENCODER.fingerprint),
        "method": "templates",
        "settings": {"templates": ["the {}"]},
        "index": "",
    }


def test_the_control_mixes_in_as_many_captions_of_the_store(store: Store):
    retrieved = enhance(LABELS, encoder=ENCODER, store=store, method="retrieved")
    control = enhance(LABELS, encoder=ENCODER, store=store, method="random", settings=Settings(seed=4))
    assert [[text.weight for text in group] for group in control.texts] == [
        [text.weight for text in group] for group in retrieved.texts
    ]
    drawn = {text.text for group in control.texts for text in group if text.role == "context"}
    assert drawn <= set(CAPTIONS)
    assert drawn != {text.text for group in retrieved.texts for text in group if text.role == "context"}
    assert control.provenance["settings"]["seed"] == 4


@pytest.mark.parametrize("method", ["templates", "retrieved"])
def test_enhancing_keeps_the_contract_of_a_prompt_method(store: Store, method: str):
    check_prompts(lambda labels: enhance(labels, encoder=ENCODER, store=store, method=method), LABELS)


def test_more_classes_than_a_search_takes_get_what_each_gets_alone(store: Store):
    names = (*(f"filler {number}" for number in range(70)), "zorp", "blick")
    events: list[Progress] = []
    clock = StageClock()
    many = enhance(LabelSet(names), encoder=ENCODER, store=store, method="retrieved", clock=clock, report=events.append)
    assert many.texts[70:] == enhance(LABELS, encoder=ENCODER, store=store, method="retrieved").texts[:2]
    assert events == [Progress("retrieve", 64, 72, "classes"), Progress("retrieve", 72, 72, "classes")]
    assert set(clock.seconds) == {"encode queries", "search", "filter"}


@pytest.mark.parametrize(("candidates", "kept"), [(1, []), (2, ["the zorp is a red thing"])])
def test_captions_beyond_the_candidates_are_not_seen(store: Store, candidates: int, kept: list[str]):
    settings = Settings(search="lexical", keep="phrase", limit=1, candidates=candidates)
    labels = LabelSet(("red thing zorp banner",), synonyms=(("red thing",),))
    [group] = enhance(labels, encoder=ENCODER, store=store, settings=settings).texts
    assert [text.text for text in group if text.role == "context"] == kept


def test_underscores_part_words_in_lexical_search(store: Store):
    settings = Settings(search="lexical", keep="phrase")
    prompts = enhance(LabelSet(("blue_blick",)), encoder=ENCODER, store=store, method="retrieved", settings=settings)
    assert [text.text for text in prompts.texts[0][1:]] == ["a blue blick"]


def test_an_index_of_another_encoder_is_refused_where_vectors_are_compared(store: Store):
    other = ToyEncoder(name="other")
    with pytest.raises(ValueError, match=r"was built with toy .* but the encoder is other .* or lexical search"):
        enhance(LABELS, encoder=other, store=store, method="retrieved")
    prompts = enhance(LABELS, encoder=other, store=store, method="retrieved", settings=Settings(search="lexical"))
    assert prompts.provenance["encoder"] == asdict(other.fingerprint)


def test_an_empty_index_is_refused(tmp_path: Path):
    schema: CollectionSchema = load_schema()
    with (
        create_store(tmp_path / "empty", schema=schema, encoder=ENCODER.fingerprint, dim=ENCODER.dim) as empty,
        pytest.raises(ValueError, match=r"the index at .*empty holds no captions; build it first"),
    ):
        enhance(LABELS, encoder=ENCODER, store=empty, method="retrieved")


def test_a_missing_store_and_an_unknown_method_are_refused():
    with pytest.raises(ValueError, match="method 'random' retrieves captions and needs an index; give one"):
        enhance(LABELS, encoder=ENCODER, method="random")
    with pytest.raises(ValueError, match="unknown method 'magic'; known are templates, retrieved, random"):
        enhance(LABELS, encoder=ENCODER, method="magic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": "fuzzy"}, "unknown search 'fuzzy'; known are dense, lexical, hybrid"),
        ({"keep": "all"}, "unknown filter 'all'; known are token, substring, phrase"),
        ({"weight": -0.1}, "the weight of the captions is -0.1; give a number from 0 to 1"),
        ({"limit": 0}, "limit is 0 of 1000 candidates; give 1 <= limit <= candidates"),
        ({"limit": 20, "candidates": 10}, "limit is 20 of 10 candidates"),
        ({"query": "a photo"}, r"query 'a photo' has no '\{\}'; put '\{\}' where the class name goes"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        replace(Settings(), **change)
