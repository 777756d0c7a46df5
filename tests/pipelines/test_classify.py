"""The classify job: what it writes, counts and reuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from inputs.pictures import COLOURS, LightEncoder, colour_prompts, colours, picture, write_images
from rag_clip.classifiers.match import Scoring
from rag_clip.classifiers.prepared import PreparedHead
from rag_clip.classifiers.reuse import Reuse
from rag_clip.classifiers.zero_shot import ZeroShot
from rag_clip.data import LabelSet, Prompts, PromptText
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.running import Running
from rag_clip.progress import ProgressEvent
from rag_clip.store import caption_id, create_store, load_schema
from rag_clip.testing import ToyEncoder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "predictions.parquet"


def run(paths: list[Path], output: Path, **settings: Any):
    defaults: dict[str, Any] = {"prompts": colour_prompts(), "encoder": ToyEncoder(), "running": Running(0)}
    return classify(paths, output=output, **defaults | settings)


def test_every_input_column_is_kept_beside_the_prediction(tmp_path: Path, output: Path):
    source = write_images(
        tmp_path / "in.parquet", [picture(name) for name in colours(7)], id=list(range(7)), truth=colours(7)
    )
    summary = run([source], output, scoring=Scoring(top_k=2))
    written = pq.read_table(output)
    assert written.schema.names == [
        "image", "id", "truth", "label", "score", "top_k_labels", "top_k_scores", "error",
    ]  # fmt: skip
    assert written.select(["image", "id", "truth"]).equals(pq.read_table(source))
    assert written["label"].to_pylist() == colours(7)
    assert written["error"].null_count == 7
    for row in written.to_pylist():
        assert (row["label"], row["score"]) == (row["top_k_labels"][0], row["top_k_scores"][0])
        assert len(row["top_k_labels"]) == 2
        assert row["top_k_scores"] == sorted(row["top_k_scores"], reverse=True)
    assert (summary.rows, summary.failed, summary.decoded, summary.from_cache) == (7, 0, 7, 0)
    assert summary.output == output
    assert set(summary.seconds) == {"prompts", "read", "decode", "encode", "match", "write"}
    assert summary.bottleneck in summary.seconds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "predictions.parquet"]


def test_scores_are_probabilities_over_all_classes(tmp_path: Path, output: Path):
    run([write_images(tmp_path / "in.parquet", [picture("red")])], output, scoring=Scoring(top_k=9))
    scores = pq.read_table(output)["top_k_scores"].to_pylist()[0]
    assert len(scores) == 3
    assert sum(scores) == pytest.approx(1)


def test_run_facts_lie_in_the_schema_metadata(tmp_path: Path, output: Path):
    source = write_images(tmp_path / "in.parquet", [picture("red"), None])
    run([source], output)
    facts = json.loads(pq.read_schema(output).metadata[b"rag_clip"])
    assert (facts["rows"], facts["failed"], facts["classes"], facts["top_k"]) == (2, 1, 3, 5)
    assert facts["encoder"] == asdict(ToyEncoder().fingerprint)
    assert (facts["prompts"]["method"], len(facts["prompts"]["digest"])) == ("templates", 64)
    assert facts["columns"] == ["label", "score", "top_k_labels", "top_k_scores", "error"]


def test_metadata_of_the_input_stays_but_for_a_reader_that_would_refuse_new_columns(tmp_path: Path, output: Path):
    table = pa.table({"image": [picture("red")]}).replace_schema_metadata({"mine": "kept", "huggingface": "{}"})
    pq.write_table(table, tmp_path / "in.parquet")
    run([tmp_path / "in.parquet"], output)
    assert set(pq.read_schema(output).metadata) == {b"mine", b"rag_clip"}


def test_columns_take_a_prefix_where_the_input_has_one_of_their_names(tmp_path: Path, output: Path):
    summary = run([write_images(tmp_path / "in.parquet", [picture("red")], label=["truth"])], output)
    written = pq.read_table(output).to_pylist()[0]
    assert (written["label"], written["predicted_label"], written["predicted_error"]) == ("truth", "red", None)
    assert summary.columns == tuple(
        f"predicted_{name}" for name in ("label", "score", "top_k_labels", "top_k_scores", "error")
    )


def test_names_taken_twice_over_are_refused(tmp_path: Path, output: Path):
    source = write_images(tmp_path / "in.parquet", [picture("red")], score=[1], predicted_label=["x"])
    with pytest.raises(ValueError, match="already has the columns score, predicted_label; rename or drop"):
        run([source], output)


def test_several_files_become_one_output_in_order(tmp_path: Path, output: Path):
    first = write_images(tmp_path / "a.parquet", [picture("red")], id=["a"])
    empty = write_images(tmp_path / "b.parquet", [], id=pa.array([], pa.string()))
    swapped = tmp_path / "c.parquet"
    pq.write_table(pa.table({"id": ["c"], "image": [picture("blue")]}), swapped)
    run([first, empty, swapped], output)
    assert pq.read_table(output, columns=["id", "label"]).to_pylist() == [
        {"id": "a", "label": "red"},
        {"id": "c", "label": "blue"},
    ]


def test_no_rows_give_an_empty_output_with_all_columns(tmp_path: Path, output: Path):
    summary = run([write_images(tmp_path / "in.parquet", [])], output)
    assert pq.read_table(output).to_pydict() == {
        name: [] for name in ("image", "label", "score", "top_k_labels", "top_k_scores", "error")
    }
    assert (summary.rows, summary.failed) == (0, 0)


def test_shards_and_batches_do_not_show_in_the_output(tmp_path: Path, output: Path):
    images = [None if row in (2, 8) else picture(name) for row, name in enumerate(colours(14))]
    source = write_images(tmp_path / "in.parquet", images)
    run([source], output, running=Running(0, 3, shard_rows=4))
    whole = tmp_path / "whole.parquet"
    run([source], whole, running=Running(0, 256, shard_rows=4))
    assert pq.read_table(output).equals(pq.read_table(whole), check_metadata=True)


def test_worker_processes_give_what_this_process_gives(tmp_path: Path, output: Path):
    images = [b"broken" if row == 5 else picture(name, kind="JPEG") for row, name in enumerate(colours(40))]
    source = write_images(tmp_path / "in.parquet", images)
    run([source], output, encoder=LightEncoder(), running=Running(0, shard_rows=4))
    parallel = tmp_path / "parallel.parquet"
    run([source], parallel, encoder=LightEncoder(), running=Running(2, shard_rows=4))
    assert pq.read_table(parallel).equals(pq.read_table(output), check_metadata=True)


def test_cached_features_serve_other_prompts_without_decoding(tmp_path: Path, output: Path):
    source = write_images(tmp_path / "in.parquet", [picture("red"), b"broken", picture("blue")])
    first = run([source], output, reuse=Reuse(features_dir=tmp_path / "features"))
    errors = pq.read_table(output)["error"].to_pylist()
    second = run(
        [source], output, prompts=colour_prompts("blue", "red"), reuse=Reuse(features_dir=tmp_path / "features")
    )
    assert (first.decoded, first.from_cache) == (3, 0)
    assert (second.decoded, second.from_cache, second.failed) == (0, 3, 1)
    assert "decode" not in second.seconds
    written = pq.read_table(output)
    assert written["label"].to_pylist() == ["red", None, "blue"]
    assert written["error"].to_pylist() == errors


def test_a_changed_file_is_decoded_again(tmp_path: Path, output: Path):
    source = write_images(tmp_path / "in.parquet", [picture("red")])
    run([source], output, reuse=Reuse(features_dir=tmp_path / "features"))
    write_images(source, [picture("green", size=(30, 30))])
    summary = run([source], output, reuse=Reuse(features_dir=tmp_path / "features"))
    assert (summary.decoded, pq.read_table(output)["label"].to_pylist()) == (1, ["green"])


def test_a_file_that_was_not_there_is_read_on_the_next_run(tmp_path: Path, output: Path):
    (tmp_path / "now.png").write_bytes(picture("red"))
    source = write_images(tmp_path / "in.parquet", ["now.png", "late.png"], pa.string())
    first = run([source], output, reuse=Reuse(features_dir=tmp_path / "features"))
    (tmp_path / "late.png").write_bytes(picture("green"))
    second = run([source], output, reuse=Reuse(features_dir=tmp_path / "features"))
    assert (first.failed, second.failed, second.decoded) == (1, 0, 2)
    assert pq.read_table(output)["label"].to_pylist() == ["red", "green"]


def test_progress_counts_every_row_of_both_stages(tmp_path: Path, output: Path):
    events: list[ProgressEvent] = []
    source = write_images(tmp_path / "in.parquet", [picture(name) for name in colours(6)])
    run([source], output, running=Running(0, 2, report=events.append, shard_rows=4))
    assert [(event.stage, event.done, event.total) for event in events] == [
        ("prompts", 3, 3),
        ("encode", 2, 6), ("encode", 4, 6), ("encode", 6, 6), ("write", 4, 6), ("write", 6, 6),
    ]  # fmt: skip


def test_an_earlier_output_is_replaced_and_another_file_only_by_force(tmp_path: Path, output: Path):
    source = write_images(tmp_path / "in.parquet", [picture("red")])
    output.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"was not written by `rag-clip classify`; .*running=Running\(force=True\)"):
        run([source], output)
    assert output.read_bytes() == b"old"
    run([source], output, running=Running(force=True))
    run([source], output, prompts=colour_prompts("blue", "red"), scoring=Scoring(top_k=1))
    assert pq.read_table(output)["top_k_labels"].to_pylist() == [["red"]]


def test_prompts_of_another_encoder_are_refused(tmp_path: Path, output: Path):
    source = write_images(tmp_path / "in.parquet", [picture("red")])
    with pytest.raises(ValueError, match=r"made with toy .*toy-8.* but the encoder is toy .*toy-32"):
        run([source], output, prompts=colour_prompts(encoder=ToyEncoder(dim=8)))
    assert not output.exists()


def test_settings_out_of_range_are_refused_before_any_work(tmp_path: Path, output: Path):
    source = write_images(tmp_path / "in.parquet", [picture("red")])
    with pytest.raises(ValueError, match="top_k is 0; it must be at least 1"):
        run([source], output, scoring=Scoring(top_k=0))
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_an_output_over_an_input_or_a_folder_is_refused(tmp_path: Path):
    source = write_images(tmp_path / "in.parquet", [picture("red")])
    with pytest.raises(ValueError, match="is one of the inputs"):
        run([source], source)
    with pytest.raises(ValueError, match="is a folder; name a file"):
        run([source], tmp_path)


def test_colours_of_the_tests_are_told_apart():
    assert colours(3) == list(COLOURS)


def test_a_head_takes_the_place_of_the_zero_shot_classifier(tmp_path: Path, output: Path):
    source = write_images(tmp_path / "in.parquet", [picture(name) for name in colours(3)])

    def turned(zero_shot: ZeroShot) -> ZeroShot:
        return replace(zero_shot, weights=zero_shot.weights.roll(1, 0))

    run([source], output, head=PreparedHead(turned, {"name": "turned"}))
    order = {name: colours(3)[(row + 1) % 3] for row, name in enumerate(colours(3))}
    assert pq.read_table(output)["label"].to_pylist() == [order[name] for name in colours(3)]
    assert json.loads(pq.read_schema(output).metadata[b"rag_clip"])["head"] == {"name": "turned"}


def test_captions_of_the_index_are_not_encoded_again(tmp_path: Path, output: Path):
    class Counting(ToyEncoder):
        __slots__ = ()

        def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
            asked.extend(texts)
            return ToyEncoder.encode_text(self, texts)

    asked: list[str] = []
    encoder, captions = ToyEncoder(), ["a red thing", "a blue thing"]
    with create_store(tmp_path / "index", schema=load_schema(), encoder=encoder.fingerprint, dim=encoder.dim) as store:
        vectors = pa.array(list(encoder.encode_text(captions).numpy()), pa.list_(pa.float32()))
        ids = [caption_id("toy", text) for text in captions]
        store.upsert(
            pa.RecordBatch.from_pydict({"id": ids, "text": captions, "source": ["toy"] * 2, "vector": vectors})
        )
    labels = LabelSet(("red", "blue"))
    texts = tuple(
        (PromptText(name, 0.5), PromptText(caption, 0.5, "context", "toy", evidence))
        for name, caption, evidence in zip(labels.names, captions, ids, strict=True)
    )
    source = write_images(tmp_path / "in.parquet", [picture("red"), picture("blue")])
    run(
        [source], output, prompts=Prompts(labels, texts), encoder=Counting(), reuse=Reuse(index=str(tmp_path / "index"))
    )
    assert sorted(asked) == ["blue", "red"]
    assert pq.read_table(output)["label"].to_pylist() == ["red", "blue"]
