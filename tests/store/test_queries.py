from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from inputs.pictures import encoded
from inputs.stores import fill_index
from rag_clip.data import Features
from rag_clip.store import Store, caption_id, create_store, load_schema, open_store
from rag_clip.store.queries import Query, embed_queries, search
from rag_clip.store.schema import NumberIndex, VectorSchema
from rag_clip.testing import ToyEncoder

ENCODER = ToyEncoder()
COLOURS = ("red", "green", "blue")
CAPTIONS = ["a red barn", "a green hill", "a blue lake", "a blue barn"]
OF_IMAGES = ["blue", "red", "green", "red"]
SCHEMA = load_schema().model_copy(
    update={
        "vectors": (VectorSchema(name="image"), VectorSchema(name="text")),
        "default": "image",
        "payload": load_schema().payload | {"noise": NumberIndex(kind="float")},
    }
)


def picture(colour: str) -> bytes:
    return encoded(Image.new("RGB", (8, 8), colour.replace("green", "lime")))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Four images with captions that say another colour than their image has."""
    vectors = {
        "vector_text": ENCODER.encode_text(CAPTIONS),
        "vector_image": ENCODER.encode_images([picture(colour) for colour in OF_IMAGES]).pooled,
    }
    columns = {
        "id": [caption_id("toy", text) for text in CAPTIONS],
        "text": CAPTIONS,
        "source": ["toy", "toy", "toy", "web"],
        "noise": [0.1, 0.2, 0.3, 0.9],
        **{name: pa.FixedSizeListArray.from_arrays(v.numpy().ravel(), ENCODER.dim) for name, v in vectors.items()},
    }
    folder = tmp_path_factory.mktemp("search") / "index"
    with create_store(folder, schema=SCHEMA, encoder=ENCODER.fingerprint, dim=ENCODER.dim) as store:
        store.upsert(pa.record_batch(columns))
        yield store


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One caption, and no vectors of images."""
    with open_store(fill_index(tmp_path_factory.mktemp("captions") / "index", ["a red barn"], ENCODER)) as store:
        yield store


class Axes(ToyEncoder):
    """Embeds every text as n(0, 1, 1) and every image as (1, 0, 0)."""

    def encode_text(self, texts):
        return torch.nn.functional.normalize(torch.tensor([[0.0, 1.0, 1.0]] * len(texts)), dim=-1)

    def encode_images(self, images, *, patches=False):
        return Features(torch.tensor([[1.0, 0.0, 0.0]] * len(images)))


@pytest.mark.parametrize(
    ("weight", "composed"),
    [
        (2.0, [0.447214, 0.632456, 0.632456]),
        (1.0, [0.707107, 0.5, 0.5]),
        (0.0, [1, 0, 0]),
        (-1.0, [0.707107, -0.5, -0.5]),
    ],
)
def test_image_and_text_are_added_as_unit_vectors_the_text_with_its_weight(weight: float, composed: list[float]):
    queries = [Query("the sea", b"image", weight), Query("the sea"), Query(image=b"image")]
    expected = np.array([composed, [0, 0.707107, 0.707107], [1, 0, 0]])
    np.testing.assert_allclose(embed_queries(queries, Axes()).numpy(), expected, atol=1e-6)


def test_a_text_finds_captions_or_images_whichever_are_compared(store: Store):
    found = {
        over: search([Query("red")], store=store, encoder=ENCODER, over=over, limit=1)[0][0].text
        for over in ("text", "image", None)
    }
    assert found["text"] == "a red barn"
    assert OF_IMAGES[CAPTIONS.index(found["image"])] == "red"
    assert found[None] == found["image"]


def test_an_image_finds_the_captions_of_its_colour_and_a_text_bends_the_search(store: Store):
    for colour, best in zip(COLOURS, ("a red barn", "a green hill", "a blue lake"), strict=True):
        queries = [Query(image=picture(colour)), Query("barn", picture(colour))]
        plain, bent = search(queries, store=store, encoder=ENCODER, over="text", limit=1)
        assert [hit.text for hit in plain] == [best]
        assert bent[0].text.endswith("barn")
    [[hit]] = search([Query("lake", picture("blue"), -1.0)], store=store, encoder=ENCODER, over="text", limit=1)
    assert hit.text == "a blue barn"


def test_words_are_searched_without_an_encoder(store: Store):
    first, second = search([Query("barn"), Query("lake")], store=store)
    assert {hit.text for hit in first} == {"a red barn", "a blue barn"}
    assert [hit.text for hit in second] == ["a blue lake"]


def test_hybrid_search_asks_with_the_words_and_the_composed_vector(store: Store):
    [hits] = search([Query("barn", picture("blue"))], store=store, encoder=ENCODER, mode="hybrid", over="text", limit=1)
    assert [hit.text for hit in hits] == ["a blue barn"]


def test_filters_hold_in_every_mode(store: Store):
    for mode in ("dense", "lexical", "hybrid"):
        [hits] = search(
            [Query("barn")], store=store, encoder=ENCODER, mode=mode, where={"source": "toy", "noise": (None, 0.15)}
        )
        assert [hit.text for hit in hits] == ["a red barn"]


@pytest.mark.parametrize("values", [{}, {"text": " \n"}, {"weight": 3.0}])
def test_a_query_of_nothing_is_refused(values: dict[str, Any]):
    with pytest.raises(ValueError, match="the query is empty; give a text, an image, or both"):
        Query(**values)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_refused(weight: float):
    with pytest.raises(ValueError, match=f"the weight of the text is {weight}; give a finite number"):
        Query("red", weight=weight)


def test_image_and_text_that_cancel_out_are_refused():
    class Same(Axes):
        def encode_text(self, texts):
            return self.encode_images(texts).pooled

    with pytest.raises(ValueError, match=r"image and text 'red' cancel out at weight -1\.0; choose another weight"):
        embed_queries([Query("red", b"image", -1.0)], Same())


def test_an_image_that_cannot_be_decoded_is_refused(store: Store):
    with pytest.raises(ValueError, match="not an image of a known format"):
        search([Query(image=b"not an image")], store=store, encoder=ENCODER)


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        ([Query("red")], {"mode": "dense"}, "dense search compares vectors and needs the encoder of the index"),
        ([Query(image=b"x")], {}, "lexical search ranks by words, and an image has none; add a text, or use dense"),
        ([Query(image=b"x")], {"mode": "hybrid"}, "hybrid search ranks by words, and an image has none"),
        ([Query("red")], {"over": "image"}, "lexical search ranks captions by their words; to search over images"),
        (
            [Query("red")],
            {"where": {"licence": "by"}},
            "cannot filter by licence; the indexed fields are noise, source",
        ),
        ([Query("red")], {"limit": 0}, "limit is 0; ask for at least one hit"),
        (
            [Query("red")],
            {"encoder": ToyEncoder(name="other")},
            r"was built with toy .*, but the encoder is other",
        ),
    ],
)
def test_a_search_that_cannot_be_answered_says_why(store: Store, queries, options, message: str):
    with pytest.raises(ValueError, match=message):
        search(queries, store=store, **options)


def test_an_index_of_captions_has_no_images_to_search_over(captions: Store):
    message = "has no vectors of images, only text; make an index of images with: rag-clip index images"
    with pytest.raises(ValueError, match=message):
        search([Query("red")], store=captions, encoder=ENCODER, over="image")


def test_an_empty_index_is_refused(tmp_path: Path):
    with (
        create_store(tmp_path / "index", schema=load_schema(), encoder=ENCODER.fingerprint, dim=ENCODER.dim) as empty,
        pytest.raises(ValueError, match="holds no captions; build it first"),
    ):
        search([Query("red")], store=empty)
