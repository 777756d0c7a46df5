"""Chinese names, templates, captions and descriptions, from label set to class weights, with a byte-level tokenizer."""

import json
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from rag_clip.classifiers.zero_shot import zero_shot
from rag_clip.data import Features, LabelSet
from rag_clip.files.prompts import read_prompts, write_prompts
from rag_clip.models.folder import CONFIG
from rag_clip.models.open_clip import load_encoder
from rag_clip.prompts.enhance import enhance
from rag_clip.prompts.recipe import Described, Recipe, Templates
from rag_clip.prompts.retrieval import Retrieval, Search
from rag_clip.prompts.templates import template_prompts, template_set
from rag_clip.protocols import Encoder
from rag_clip.store import Store, caption_id, create_store, load_schema

LABELS = LabelSet(("猫", "狗", "自行车"), synonyms=((), (), ("单车",)))
CAPTIONS = ["一只猫在沙发上睡觉", "猫和狗", "公园里的狗", "红色的自行车靠在墙边", "a red bicycle"]
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 64, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
BY_WORD = load_schema()
BY_LETTER = BY_WORD.model_copy(
    update={
        "payload": {**BY_WORD.payload, "text": BY_WORD.payload["text"].model_copy(update={"tokenizer": "multilingual"})}
    }
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("model")
    (folder / CONFIG).write_text(json.dumps({"model_cfg": MODEL, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # open_clip announces the random weights that are wanted here
        patch.setattr("logging.warning", lambda *_: None)
        model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return load_encoder(f"local-dir:{folder}")


@pytest.fixture(scope="module")
def store(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("store") / "index"
    vectors = encoder.encode_text(CAPTIONS).numpy().ravel()
    columns = {
        "id": [caption_id("web", text) for text in CAPTIONS],
        "text": CAPTIONS,
        "source": ["web"] * len(CAPTIONS),
        "vector": pa.FixedSizeListArray.from_arrays(vectors, encoder.dim).cast(pa.list_(pa.float32())),
    }
    with create_store(folder, schema=BY_LETTER, encoder=encoder.fingerprint, dim=encoder.dim) as store:
        store.upsert(pa.RecordBatch.from_pydict(columns))
        yield store


def test_chinese_templates_reach_the_encoder_letter_by_letter(encoder: Encoder):
    prompts = template_prompts(LABELS, templates=template_set("chinese"))
    texts = [text.text for group in prompts.texts for text in group]
    tokenizer = open_clip.get_tokenizer(encoder.name)
    ends = {tokenizer.sot_token_id, tokenizer.eot_token_id, 0}
    tokens = [[token for token in row if token not in ends] for row in tokenizer(texts).tolist()]
    assert [tokenizer.decode(row).replace(" ", "") for row in tokens] == texts
    assert len(encoder.encode_text(texts).unique(dim=0)) == len(texts) == 21


@pytest.mark.parametrize("search", ["dense", "lexical", "hybrid"])
def test_chinese_captions_and_descriptions_become_class_weights(
    encoder: Encoder, store: Store, tmp_path: Path, search: Search
):
    described = tmp_path / "描述.json"
    described.write_text(json.dumps({"单车": ["单车有两个轮子。"]}, ensure_ascii=False), "utf-8")
    recipe = Recipe(
        "chinese",
        Templates("chinese"),
        retrieved=Retrieval(search=search, query="一张{}的照片。", keep="substring"),
        described=Described((described,)),
    )
    prompts = enhance(LABELS, encoder=encoder, store=store, recipe=recipe)
    assert [{text.text for text in group if text.role == "context"} for group in prompts.texts] == [
        {"一只猫在沙发上睡觉", "猫和狗"},
        {"猫和狗", "公园里的狗"},
        {"红色的自行车靠在墙边", "单车有两个轮子。"},
    ]
    write_prompts(prompts, tmp_path / "prompts.parquet")
    assert read_prompts(tmp_path / "prompts.parquet").texts == prompts.texts
    classifier = zero_shot(prompts, encoder)
    assert classifier(Features(classifier.weights)).argmax(-1).tolist() == [0, 1, 2]
