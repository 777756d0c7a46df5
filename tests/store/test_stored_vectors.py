from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from inputs.stores import fill_index
from rag_clip.classifiers.zero_shot import encode_texts, zero_shot
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.models.open_clip import load_encoder
from rag_clip.pipelines.captions import build_index
from rag_clip.progress import ProgressEvent
from rag_clip.store import Store, caption_id, create_store, load_schema, open_store
from rag_clip.store.schema import VectorSchema
from rag_clip.store.stored_vectors import stored_vectors
from rag_clip.testing import ToyEncoder

CAPTIONS = ["a red zorp", "the blue blick", "a green quux"]


@dataclass(frozen=True, slots=True)
class Counting(ToyEncoder):
    """Notes what it encodes."""

    encoded: list[str] = field(default_factory=list)

    def encode_text(self, texts):
        self.encoded.extend(texts)
        return ToyEncoder.encode_text(self, texts)


def quote(text: str, stored: str) -> PromptText:
    return PromptText(text, 0.25, "context", "toy", caption_id("toy", stored))


def prompts(*contexts: PromptText) -> Prompts:
    anchor = PromptText("a photo of a zorp.", 1 - 0.25 * len(contexts))
    return Prompts(LabelSet(("zorp",)), ((anchor, *contexts),))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store(fill_index(tmp_path_factory.mktemp("stored") / "index", CAPTIONS, ToyEncoder())) as store:
        yield store


def test_captions_of_the_index_are_not_encoded_again_and_the_classifier_is_the_same(store: Store):
    quoting = prompts(quote(CAPTIONS[0], CAPTIONS[0]), quote(CAPTIONS[1], CAPTIONS[1]))
    encoder, plain = Counting(), ToyEncoder()
    known = stored_vectors([quoting], store, encoder=encoder.fingerprint)
    assert sorted(known) == sorted(CAPTIONS[:2])
    events: list[ProgressEvent] = []
    classifier = zero_shot(quoting, encoder, known=known, report=events.append)
    assert encoder.encoded == ["a photo of a zorp."]
    assert events == [ProgressEvent("prompts", 1, 1, "texts")]
    torch.testing.assert_close(classifier.weights, zero_shot(quoting, plain).weights, rtol=0, atol=1e-6)


def test_a_text_that_differs_from_its_evidence_is_encoded(store: Store):
    rewritten = quote("a red", CAPTIONS[0])
    assert stored_vectors([prompts(rewritten)], store, encoder=ToyEncoder().fingerprint) == {}
    both = stored_vectors(
        [prompts(quote(CAPTIONS[0], CAPTIONS[0])), prompts(rewritten)], store, encoder=ToyEncoder().fingerprint
    )
    assert list(both) == [CAPTIONS[0]]


def test_evidence_that_is_gone_and_texts_without_evidence_are_encoded(store: Store):
    assert stored_vectors([prompts()], store, encoder=ToyEncoder().fingerprint) == {}
    assert stored_vectors([prompts(quote("gone", "gone"))], store, encoder=ToyEncoder().fingerprint) == {}


def test_texts_of_other_sources_are_encoded(store: Store):
    described = PromptText(CAPTIONS[0], 0.25, "context", "cupl:a.json", "cupl:a.json#zorp#1")
    drawn = PromptText(CAPTIONS[1], 0.25, "context", "waffle", "waffle#1")
    quoting = prompts(described, drawn, quote(CAPTIONS[2], CAPTIONS[2]))
    assert sorted(stored_vectors([quoting], store, encoder=ToyEncoder().fingerprint)) == [CAPTIONS[2]]


def test_vectors_of_another_encoder_are_not_used(store: Store):
    quoting = prompts(quote(CAPTIONS[0], CAPTIONS[0]))
    assert stored_vectors([quoting], store, encoder=ToyEncoder(name="other").fingerprint) == {}
    other_precision = replace(ToyEncoder().fingerprint, precision="fp16")
    assert list(stored_vectors([quoting], store, encoder=other_precision)) == [CAPTIONS[0]]


def test_vectors_of_images_are_not_taken_for_those_of_captions(tmp_path):
    encoder = ToyEncoder()
    schema = load_schema().model_copy(update={"vectors": (VectorSchema(name="image"),)})
    row = {"id": [caption_id("toy", CAPTIONS[0])], "text": CAPTIONS[:1], "source": ["toy"]}
    with create_store(tmp_path / "index", schema=schema, encoder=encoder.fingerprint, dim=encoder.dim) as store:
        store.upsert(pa.record_batch(row | {"vector": encoder.encode_text(CAPTIONS[:1]).tolist()}))
        quoting = prompts(quote(CAPTIONS[0], CAPTIONS[0]))
        assert stored_vectors([quoting], store, encoder=encoder.fingerprint) == {}


def test_every_text_may_be_known():
    vector = np.eye(32, dtype=np.float32)[0]
    texts = encode_texts([prompts()], ToyEncoder(), known={"a photo of a zorp.": vector, "unused": vector})
    assert texts.rows == {"a photo of a zorp.": 0}
    np.testing.assert_array_equal(texts.vectors.numpy(), vector[None])


def test_vectors_that_came_through_shards_are_within_a_thousandth(tmp_path):
    encoder = load_encoder("demo", device="cpu")
    captions = [f"a {colour} flag with {number} stars" for colour in ("red", "blue") for number in range(20)]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    build_index([str(tmp_path / "captions.txt")], index=str(tmp_path / "index"), encoder=encoder)
    with open_store(tmp_path / "index") as store:
        [page] = store.scroll()
        contexts = tuple(
            PromptText(row["text"], 0.9 / len(page), "context", row["source"], row["id"]) for row in page.to_pylist()
        )
        quoting = Prompts(LabelSet(("flag",)), ((PromptText("a flag", 0.1), *contexts),))
        known = stored_vectors([quoting], store, encoder=encoder.fingerprint)
    assert sorted(known) == sorted(captions)
    error = torch.from_numpy(np.stack([known[text] for text in captions])) - encoder.encode_text(captions)
    assert 0 < float(error.abs().max()) < 1e-3
