"""Classification by a matching of patches that the encoder learned."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from inputs.matched_model import patches_model, tokens_model
from inputs.objectives import encoder, pixels
from inputs.pictures import write_images
from rag_clip.classifiers.hubs import HubBank
from rag_clip.classifiers.learned_match import match_classes
from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.novelty import OpenWorld
from rag_clip.classifiers.prepared import PreparedHead
from rag_clip.classifiers.reuse import Reuse
from rag_clip.classifiers.zero_shot import ZeroShot, zero_shot
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.models.learned_match import patch_match, token_match
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running

NAMES = ("boat", "mill", "gate")
PATCHES = Scoring(compared="patches", top_k=3)


def prompts() -> Prompts:
    return Prompts(LabelSet(NAMES), tuple((PromptText(f"a photo of a {name}", 1.0),) for name in NAMES))


def images(path: Path) -> Path:
    """Write five images of random pixels, and one that cannot be decoded."""
    files = []
    for array in pixels(torch.arange(5)).permute(0, 2, 3, 1).numpy():
        file = BytesIO()
        Image.fromarray(array).save(file, "PNG")
        files.append(file.getvalue())
    return write_images(path, [*files, b"no image"])


def run(source: Path, output: Path, model: Any, **settings: Any) -> Any:
    given = {"prompts": prompts(), "encoder": model, "scoring": PATCHES, "running": Running(0)} | settings
    return classify([source], output=output, **given)


def test_scores_are_those_of_the_patches_pooled_for_each_class(tmp_path: Path) -> None:
    model = patches_model(tmp_path / "model")
    source = images(tmp_path / "images.parquet")
    summary = run(source, tmp_path / "out.parquet", model)
    match = patch_match(model)
    assert match is not None
    weights = zero_shot(prompts(), model).weights
    wanted = (model.scale * match(model.patch_tokens(pixels(torch.arange(5))), weights)).softmax(1)
    written = pq.read_table(summary.output)
    for row, values in enumerate(wanted):
        scores = dict(zip(written["top_k_labels"][row].as_py(), written["top_k_scores"][row].as_py(), strict=True))
        assert [scores[name] for name in NAMES] == pytest.approx(values.tolist(), abs=1e-4)
    pooled = run(source, tmp_path / "pooled.parquet", model, scoring=Scoring(top_k=3)).to_polars()
    assert pooled["top_k_scores"].to_list() != written["top_k_scores"].to_pylist()
    assert summary.failed == 1
    assert written["label"][5].as_py() is None
    assert json.loads(pq.read_schema(summary.output).metadata[b"rag_clip"])["compared"] == "patches"


def test_images_that_are_matched_one_at_a_time_get_the_same_scores(tmp_path: Path) -> None:
    model, source = patches_model(tmp_path / "model"), images(tmp_path / "images.parquet")
    whole = run(source, tmp_path / "whole.parquet", model).to_polars()
    single = run(source, tmp_path / "single.parquet", model, running=Running(0, batch_size=1)).to_polars()
    assert whole["label"].to_list() == single["label"].to_list()
    for first, second in zip(whole["score"][:5].to_list(), single["score"][:5].to_list(), strict=True):
        assert first == pytest.approx(second, abs=1e-4)


def test_a_model_without_a_matching_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no learned matching of patches; make one with `rag-clip adapt"):
        run(images(tmp_path / "images.parquet"), tmp_path / "out.parquet", encoder())


def test_what_reads_pooled_features_is_refused(tmp_path: Path) -> None:
    model, source, output = patches_model(tmp_path / "model"), images(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    with pytest.raises(ValueError, match="a head reads pooled features"):
        run(source, output, model, head=PreparedHead(lambda text: text, {}))
    with pytest.raises(ValueError, match="kept features are pooled"):
        run(source, output, model, reuse=Reuse(features_dir=tmp_path / "features"))
    with pytest.raises(ValueError, match="choose among prompts by pooled features"):
        run(source, output, model, prompts={"first": prompts(), "second": prompts()})
    assert not output.exists()
    for settings, reason in (
        ({"refine": True}, "refinement reads pooled features"),
        ({"open_world": OpenWorld("names.txt")}, "novelty reads pooled features"),
        ({"hub_bank": HubBank("support.parquet")}, "the hub correction reads pooled features"),
        ({"scores": "sigmoid"}, "trained with a softmax"),
    ):
        with pytest.raises(ValueError, match=reason):
            Scoring(compared="patches", **settings)
    with pytest.raises(ValueError, match="'tokens' cannot be compared"):
        Scoring(compared="tokens")  # type: ignore[arg-type]


def test_weights_that_are_no_unit_vectors_are_normalised(tmp_path: Path) -> None:
    model = patches_model(tmp_path)
    text = zero_shot(prompts(), model)
    longer = ZeroShot(text.labels, 3 * text.weights, text.scale)
    shown = pixels(torch.arange(3))
    (first, by_unit), (second, by_longer) = (
        match_classes("patches", each, prompts(), model) for each in (text, longer)
    )
    assert torch.allclose(by_unit(first.encode_pixels(shown)), by_longer(second.encode_pixels(shown)), atol=1e-3)


@pytest.mark.parametrize(("compared", "make"), [("patches", patches_model), ("late", tokens_model)])
def test_the_fingerprint_of_a_matching_depends_on_its_kind_and_its_classes(
    compared: str, make: Any, tmp_path: Path
) -> None:
    model = make(tmp_path)
    others = Prompts(LabelSet(NAMES), tuple((PromptText(f"no {name}", 1.0),) for name in NAMES))
    first, again, second = (
        match_classes(compared, zero_shot(given, model), given, model)[0].fingerprint.weights
        for given in (prompts(), prompts(), others)
    )
    assert first == again
    assert len({first, second, model.fingerprint.weights}) == 3


def test_late_scores_are_means_over_the_texts_of_each_class(tmp_path: Path) -> None:
    model, source = tokens_model(tmp_path / "model"), images(tmp_path / "images.parquet")
    match = token_match(model)
    assert match is not None
    several = Prompts(
        LabelSet(NAMES),
        tuple(
            (PromptText(f"a photo of a {name}", 0.75), PromptText(f"some {name}s by the sea", 0.25)) for name in NAMES
        ),
    )
    summary = run(source, tmp_path / "out.parquet", model, prompts=several, scoring=Scoring(compared="late", top_k=3))
    patches = match.patches(model.patch_tokens(pixels(torch.arange(5))))
    assert patches.shape == (5, 5, 16)
    columns = []
    for group in several.texts:
        scores = []
        for text in group:
            tokens, real = model.text_tokens(model.tokenizer([text.text]))
            words = match.words(tokens)[0, 1 : int(real.sum())]  # without the start
            scores.append((patches @ words.T).amax(2).mean(1))
        columns.append(0.75 * scores[0] + 0.25 * scores[1])
    wanted = (model.scale * torch.stack(columns, 1)).softmax(1)
    written = summary.to_polars()
    for row, values in enumerate(wanted):
        said = dict(zip(written["top_k_labels"][row], written["top_k_scores"][row], strict=True))
        assert [said[name] for name in NAMES] == pytest.approx(values.tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="no learned matching of patches"):
        run(source, tmp_path / "other.parquet", model)
    with pytest.raises(ValueError, match="no learned matching of tokens; make one with `rag-clip adapt PAIRS --object"):
        run(source, tmp_path / "other.parquet", encoder(), scoring=Scoring(compared="late"))
