from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import LabelSet
from rag_clip.index import __path__ as schemas
from rag_clip.progress import Progress, ProgressEvent
from rag_clip.prompts.evidence import CLASSES_PER_SEARCH, gather
from rag_clip.prompts.mixed import Texts, mix
from rag_clip.prompts.recipe import load_recipe
from rag_clip.prompts.retrieval import Retrieval
from rag_clip.prompts.templates import template_prompts
from rag_clip.store import Store, caption_id, create_store, load_schema
from rag_clip.testing import ToyEncoder, check_prompts

ENCODER = ToyEncoder()
LABELS = LabelSet(("fox", "red fox", "wolf", "yeti"), templates=("{}",))
CAPTIONS = {
    "fox with orange fur": "wiki",
    "fox orange fur tail": "wiki",
    "orange fur of a fox": "shop",
    "fox in the window": "shop",
    "red fox scarlet coat tail": "wiki",
    "scarlet coat red fox tail bushy": "shop",
    "wolf grey pack howling": "wiki",
    "grey pack wolf howling": "shop",
    "wolf in the window": "shop",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with fill_store(tmp_path_factory.mktemp("store") / "index", "captions.toml", ["vector"]) as store:
        yield store


def fill_store(folder: Path, schema: str, columns: Sequence[str], captions: Mapping[str, str] = CAPTIONS) -> Store:
    store = create_store(
        folder, schema=load_schema(Path(schemas[0]) / schema), encoder=ENCODER.fingerprint, dim=ENCODER.dim
    )
    shown = ["wolf" if text == "wolf grey pack howling" else "stone" for text in captions]
    texts = {"vector": list(captions), "vector_text": list(captions), "vector_image": shown}
    vectors = {name: ENCODER.encode_text(texts[name]).numpy().ravel() for name in columns}
    facts: dict[str, Any] = {
        "id": [caption_id("toy", text) for text in captions],
        "text": list(captions),
        "source": list(captions.values()),
    }
    for name, values in vectors.items():
        facts[name] = pa.FixedSizeListArray.from_arrays(values, ENCODER.dim).cast(pa.list_(pa.float32()))
    store.upsert(pa.RecordBatch.from_pydict(facts))
    return store


def found(store: Store, labels: LabelSet = LABELS, **changes: Any) -> list[list[str]]:
    """The captions gathered for each class, in the order of the alphabet."""
    return [sorted(text.text for text in group) for group in weighed(store, labels, **changes)]


def weighed(store: Store, labels: LabelSet = LABELS, **changes: Any) -> Texts:
    return gather(labels, encoder=ENCODER, store=store, retrieval=Retrieval(**{"query": "{}", **changes}))


def test_captions_share_the_weight_and_a_class_without_has_none(store: Store):
    groups = weighed(store, search="lexical", keep="phrase", weight=0.4)
    assert [[text.weight for text in group] for group in groups] == [[0.4 / 6] * 6, [0.2] * 2, [0.4 / 3] * 3, []]
    assert {text.role for group in groups for text in group} == {"context"}
    assert [text.evidence for text in groups[2]] == [caption_id("toy", text.text) for text in groups[2]]


def test_labels_that_are_parts_of_others_get_captions_of_their_own_by_contrast(store: Store):
    everything = [text for text in CAPTIONS if "fox" in text]
    both = found(store, LabelSet(("fox", "red fox")), keep="token")
    assert both == [sorted(everything)] * 2
    apart = found(store, LabelSet(("fox", "red fox")), keep="token", contrast="drop")
    assert apart == [sorted(everything[:4]), sorted(everything[4:])]


def test_captions_that_tell_classes_apart_weigh_more(store: Store):
    groups = weighed(store, keep="phrase", names="dropped", contrast="weigh", weight=0.5)
    weights = {text.text: text.weight for text in groups[2]}
    assert set(weights) == {"in the window", "grey pack howling"}  # the first is a caption of foxes too
    assert weights["in the window"] < 0.01 * weights["grey pack howling"]
    assert [sum(text.weight for text in group) for group in groups] == pytest.approx([0.5, 0.5, 0.5, 0], abs=1e-6)


def test_trust_leans_on_captions_of_names_that_the_encoder_does_not_know(store: Store):
    known = weighed(store, keep="phrase", contrast="weigh", trust="evidence", weight=0.9)
    dropped = weighed(store, keep="phrase", names="dropped", contrast="weigh", trust="evidence", weight=0.9)
    # What is left of the captions shares no word with the name, which is as good as unknown then.
    assert 0.25 <= sum(text.weight for text in known[2]) < 0.4
    assert 0.8 < sum(text.weight for text in dropped[2]) <= 0.9


def test_trust_looks_at_the_templates_that_captions_are_mixed_into(store: Store):
    retrieval = Retrieval(keep="phrase", names="dropped", contrast="weigh", trust="evidence", weight=0.9)
    own, telling = (
        gather(LABELS, encoder=ENCODER, store=store, retrieval=retrieval, templates=templates)
        for templates in (None, ("grey pack howling {}",))
    )
    assert sum(text.weight for text in telling[2]) < sum(text.weight for text in own[2])


def test_captions_of_names_that_the_encoder_knows_share_a_quarter_as_written(store: Store):
    # Their words describe the class without being the phrase that is left out; the animals are how captions say it.
    labels = LabelSet(
        ("fur orange", "coat scarlet", "pack grey", "yeti"),
        synonyms=(("fox",), ("red fox",), ("wolf",), ()),
        templates=("{}",),
    )
    settings: dict[str, Any] = {"keep": "phrase", "names": "dropped", "contrast": "weigh", "weight": 0.9}
    groups = weighed(store, labels, trust="known", **settings)
    foxes, red, wolves = ([text for text in CAPTIONS if name in text] for name in ("fox", "red fox", "wolf"))
    expected = [[text for text in foxes if text not in red], red, wolves]
    # Less the mean of all nine captions, which is the same for each class that has captions.
    for group, own, share in zip(groups[:3], expected, (0.25 / 4, 0.125, 0.25 / 3), strict=True):
        weights = {text.text: text.weight for text in group}
        assert weights == pytest.approx({text: share * (text in own) - 0.25 / 9 for text in CAPTIONS})
        assert {text.role for text in group} == {"context"}
    assert groups[3] == ()
    light = weighed(store, labels, trust="known", **settings | {"weight": 0.1})
    assert {round(text.weight, 6) for text in light[1]} == {round(0.05 - 0.1 / 9, 6), round(-0.1 / 9, 6)}


def test_captions_of_the_only_class_that_has_some_are_mixed_in_whole(store: Store):
    labels = LabelSet(("fox", "yeti"), templates=("{}",))
    foxes, none = weighed(store, labels, trust="names", keep="phrase", weight=0.4)
    assert [text.weight for text in foxes] == [0.25 / 6] * 6
    assert none == ()


def test_what_all_captions_say_adds_nothing_to_the_names_that_have_captions(store: Store):
    # The captions of both classes are the same words but for the name, so each class keeps its name's direction.
    labels = LabelSet(("fox", "wolf", "yeti"), templates=("{}",))
    prompts = mix(template_prompts(labels), weighed(store, labels, trust="names", keep="phrase"))
    assert [sum(text.weight for text in group) for group in prompts.texts] == pytest.approx([1, 1, 1])
    assert [sum(text.weight for text in group if text.role == "context") for group in prompts.texts] == pytest.approx(
        [0, 0, 0], abs=1e-9
    )
    templates = zero_shot(template_prompts(labels), ENCODER).weights
    weights = zero_shot(prompts, ENCODER).weights
    common = torch.stack([ENCODER.encode_text([text])[0] for text in CAPTIONS if "red" not in text]).mean(0)
    assert torch.equal(weights[2], templates[2])
    drawn = [float(common @ (row - plain)) for row, plain in zip(weights, templates, strict=True)]
    equal = zero_shot(mix(template_prompts(labels), weighed(store, labels, keep="phrase")), ENCODER).weights
    before = [float(common @ (row - plain)) for row, plain in zip(equal, templates, strict=True)]
    assert max(map(abs, drawn)) < 0.5 * max(before)


@pytest.mark.parametrize("names", ["dropped", "kept"])
def test_captions_of_names_that_the_encoder_does_not_know_weigh_as_by_evidence(store: Store, names: str):
    settings: dict[str, Any] = {"keep": "phrase", "names": names, "contrast": "weigh", "weight": 0.9}
    assert weighed(store, trust="known", **settings) == weighed(store, trust="evidence", **settings)


def test_a_lone_caption_is_not_trusted(store: Store):
    labels = LabelSet(("bushy", "fox"), templates=("{}",))
    groups = weighed(store, labels, contrast="weigh", trust="evidence")
    assert groups[0] == ()
    assert groups[1]


@pytest.mark.parametrize("search", ["dense", "lexical", "hybrid"])
def test_classes_of_several_searches_keep_their_order(store: Store, search: str):
    others = [f"class{row}" for row in range(2 * CLASSES_PER_SEARCH)]
    groups = found(store, LabelSet(("wolf", *others, "red fox")), search=search, keep="phrase")
    wolves, foxes = ([text for text in sorted(CAPTIONS) if name in text] for name in ("wolf", "red fox"))
    assert groups == [wolves, *[[] for _ in others], foxes]


@pytest.mark.parametrize("search", ["dense", "lexical", "hybrid"])
def test_the_phrase_filter_finds_captions_beyond_the_nearest(store: Store, search: str):
    labels = LabelSet(("red fox", "wolf"), synonyms=((), ("howling",)))
    groups = found(store, labels, search=search, keep="phrase", candidates=2, limit=2)
    assert [len(group) for group in groups] == [2, 2]
    assert all("red fox" in text for text in groups[0])


def test_names_that_the_engine_may_split_otherwise_are_searched_without_phrases(tmp_path: Path):
    captions = {"STRASSE bei nacht": "wiki", "grey pack wolf howling": "wiki"}
    with fill_store(tmp_path / "index", "captions.toml", ["vector"], captions) as store:
        assert found(store, LabelSet(("straße", "wolf")), keep="phrase") == [[text] for text in captions]


def test_captions_can_be_filtered_by_payload(store: Store):
    assert found(store, keep="phrase", where={"source": "shop"})[2] == ["grey pack wolf howling", "wolf in the window"]


def test_class_texts_can_be_compared_with_images_whose_captions_are_used(tmp_path: Path):
    with fill_store(tmp_path / "index", "images.toml", ["vector_text", "vector_image"]) as images:
        by_caption = found(images, search="dense", keep="token", candidates=1, limit=1)
        by_image = found(images, search="dense", modality="image", keep="token", candidates=1, limit=1)
    assert (by_caption[2], by_image[2]) == (["wolf in the window"], ["wolf grey pack howling"])


def test_repe_as_published_takes_the_captions_of_the_nearest_images_with_any_part_of_the_name(tmp_path: Path):
    labels, retrieval = LabelSet(("owl", "red hat")), load_recipe("repe_published").retrieved
    assert retrieval is not None
    with fill_store(tmp_path / "index", "images.toml", ["vector_text", "vector_image"]) as images:
        groups = gather(labels, encoder=ENCODER, store=images, retrieval=retrieval)
    shown = {text: "wolf" if text == "wolf grey pack howling" else "stone" for text in CAPTIONS}
    for name, group in zip(labels.names, groups, strict=True):
        query = ENCODER.encode_text([f"a photo of a {name}."]).double().numpy()[0]
        cosines = {text: float(ENCODER.encode_text([seen]).double().numpy()[0] @ query) for text, seen in shown.items()}
        kept = [text for text in CAPTIONS if any(word in text for word in name.split())]
        expected = {text: pytest.approx(cosines[text], abs=1e-5) for text in kept}
        assert {text.text: text.score for text in group} == expected
        assert [text.weight for text in group] == pytest.approx([0.25 / len(kept)] * len(kept))
    assert [len(group) for group in groups] == [2, 2]  # howling; scarlet coat


def test_an_index_without_image_vectors_is_refused(store: Store):
    with pytest.raises(ValueError, match="the index has no vector 'image'; name one of text"):
        found(store, modality="image")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"contrast": "drop"},
        {"contrast": "weigh", "trust": "evidence", "names": "dropped"},
        {"contrast": "weigh", "trust": "known", "names": "dropped"},
    ],
)
def test_gathered_captions_keep_the_contract_of_a_prompt_method(store: Store, changes: dict[str, Any]):
    check_prompts(lambda labels: mix(template_prompts(labels), weighed(store, labels, **changes)), LABELS)


def test_stages_and_progress_are_reported(store: Store):
    events: list[ProgressEvent] = []
    progress = Progress(report=events.append)
    retrieval = Retrieval(contrast="weigh")
    gather(LABELS, encoder=ENCODER, store=store, retrieval=retrieval, progress=progress)
    assert set(progress.seconds) == {"encode queries", "search", "filter", "weigh"}
    assert events == [ProgressEvent("retrieve", 4, 4, "classes")]


def test_an_error_of_the_search_is_the_callers(tmp_path: Path):
    opened = fill_store(tmp_path / "index", "captions.toml", ["vector"])
    retrieval = Retrieval(where={"colour": "red"})
    with opened, pytest.raises(ValueError, match="colour"):
        gather(LABELS, encoder=ENCODER, store=opened, retrieval=retrieval)


ODD_NAMES = (
    "St. Bernard",
    "AC/DC",
    "Straße",
    "cafe\u0301",
    "猫",
    "bus-stop",
    "bus",
    "buses",
    "stop",
    "fox",
    "yeti",
    "***",
)


@pytest.mark.parametrize("changes", [{}, {"search": "dense"}, {"search": "lexical"}, {"where": {"source": "a"}}])
def test_postings_change_no_caption_of_any_name(tmp_path: Path, changes: dict[str, Any]):
    labels = LabelSet(ODD_NAMES, synonyms=((), (), (), (), (), ("buss",), *[()] * 6))
    texts = [
        "St. Bernard in the deep snow",
        "the old st bernard's puppies",
        "Bernard St. in the town",
        "AC/DC on stage with fans",
        "an AC unit, a DC motor",
        "Straße im Regen der Stadt, STRASSE",
        "cafe\u0301 with a view of the sea",
        "a café by the old harbour",
        "沙发上的猫睡觉",
        "the bus-stop in heavy rain",
        "a bus stop by the bus",
        "two red buses in London",
        "buss on the long road",
        "one red bus near a stop",
        "fox in the window at night",
    ]
    captions = {text: "ab"[row % 2] for row, text in enumerate(texts)}
    settings: dict[str, Any] = {"keep": "phrase", "contrast": "drop", "names": "dropped", **changes}
    with fill_store(tmp_path / "index", "captions.toml", ["vector"], captions) as store:
        retrieval = Retrieval(**settings)
        alone = gather(labels, encoder=ENCODER, store=store, retrieval=retrieval)
        store.optimise()
        assert store.postings() is not None
        quick = gather(labels, encoder=ENCODER, store=store, retrieval=retrieval)
    scores = [[text.score for group in groups for text in group] for groups in (alone, quick)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)
    without = [
        tuple(tuple(replace(text, score=0.0) for text in group) for group in groups) for groups in (alone, quick)
    ]
    assert without[1] == without[0]
    assert sum(map(bool, alone)) >= 4
