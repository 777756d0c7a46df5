"""What the images of a file decide together: which texts their classes have, and what each label is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from inputs.command_line import run as command
from inputs.pictures import colour_prompts, meaningless_prompts, noisy_pictures, write_images
from rag_clip.classifiers.match import Scoring
from rag_clip.data import Prompts
from rag_clip.files.prompts import write_prompts
from rag_clip.pipelines.classify import ClassifySummary, classify
from rag_clip.pipelines.running import Running
from rag_clip.testing import ToyEncoder

NAMES = ("red", "green", "blue")


def noisy_images(folder: Path, count: int = 240, order: int | None = None) -> Path:
    images, truth = noisy_pictures(count)
    rows = np.random.default_rng(order).permutation(count) if order is not None else np.arange(count)
    return write_images(folder / "images.parquet", [images[row] for row in rows], truth=[truth[row] for row in rows])


def run(source: Path, output: Path, **settings: Any) -> ClassifySummary:
    defaults: dict[str, Any] = {"prompts": colour_prompts(*NAMES), "encoder": ToyEncoder(), "running": Running(0)}
    return classify(source, output=output, **defaults | settings)


def test_refined_predictions_keep_the_label_of_each_image_alone_and_say_what_changed(tmp_path: Path) -> None:
    source = noisy_images(tmp_path)
    plain = run(source, tmp_path / "plain.parquet")
    summary = run(source, tmp_path / "refined.parquet", scoring=Scoring(refine=True))
    before, after = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("plain", "refined"))
    assert after.schema.names == [*before.schema.names, "label_alone"]
    assert after["label_alone"].equals(before["label"])
    changed = np.mean(np.array(after["label"].to_pylist()) != np.array(before["label"].to_pylist()))
    assert summary.refined is not None
    assert summary.refined.images == 240
    assert summary.refined.changed == pytest.approx(changed)
    assert plain.refined is None
    facts = json.loads(after.schema.metadata[b"rag_clip"])
    assert facts["refined"]["images"] == 240
    assert 0 < facts["refined"]["weight"] <= 1 / 50
    assert json.loads(before.schema.metadata[b"rag_clip"])["refined"] is None


def test_a_further_encoder_is_evidence_of_refinement_alone(tmp_path: Path) -> None:
    source, second = noisy_images(tmp_path), {"second": ToyEncoder(dim=8, name="second")}
    alone = run(source, tmp_path / "alone.parquet", scoring=Scoring(refine=True))
    both = run(source, tmp_path / "both.parquet", scoring=Scoring(refine=True, further=second))
    tables = [pq.read_table(summary.output) for summary in (alone, both)]
    assert tables[0]["label_alone"].equals(tables[1]["label_alone"])
    assert tables[0]["score"] != tables[1]["score"]
    facts = json.loads(tables[1].schema.metadata[b"rag_clip"])
    assert list(facts["others"]) == ["second"]
    with pytest.raises(ValueError, match="the encoder second has no use without a head; add refine, or leave it out"):
        Scoring(further=second)


def test_rows_in_another_order_and_in_smaller_parts_get_the_same_labels(tmp_path: Path) -> None:
    tables = []
    for name, order, running in (("a", None, Running(0)), ("b", 3, Running(0, batch_size=7, shard_rows=50))):
        (tmp_path / name).mkdir()
        source = noisy_images(tmp_path / name, order=order)
        run(source, tmp_path / name / "out.parquet", scoring=Scoring(refine=True), running=running)
        tables.append({row["image"]: row for row in pq.read_table(tmp_path / name / "out.parquet").to_pylist()})
    for image, row in tables[0].items():
        assert row["label"] == tables[1][image]["label"]
        assert row["score"] == pytest.approx(tables[1][image]["score"], abs=1e-5)


def test_labels_of_the_file_change_nothing(tmp_path: Path) -> None:
    source = noisy_images(tmp_path)
    table = pq.read_table(source)
    shuffled = table.set_column(1, "truth", table["truth"].take(pa.array(np.random.default_rng(0).permutation(240))))
    pq.write_table(shuffled, tmp_path / "shuffled.parquet")
    candidates = {"names": colour_prompts(*NAMES), "nothing": meaningless_prompts(*NAMES)}
    for name in ("images", "shuffled"):
        output = tmp_path / f"{name}-out.parquet"
        run(tmp_path / f"{name}.parquet", output, prompts=candidates, scoring=Scoring(refine=True))
    first, second = (pq.read_table(tmp_path / f"{name}-out.parquet") for name in ("images", "shuffled"))
    assert first.drop_columns("truth").equals(second.drop_columns("truth"))


def test_the_images_choose_the_texts_of_several_prompts(tmp_path: Path) -> None:
    source = noisy_images(tmp_path)
    candidates = {"nothing": meaningless_prompts(*NAMES), "names": colour_prompts(*NAMES)}
    summary = run(source, tmp_path / "out.parquet", prompts=candidates)
    assert summary.chosen["best"] == "names"
    assert summary.chosen["classes"] == {"nothing": 0, "names": 3}
    plain = run(source, tmp_path / "plain.parquet")
    assert plain.chosen == {}
    assert pq.read_table(summary.output)["label"].equals(pq.read_table(plain.output)["label"])
    facts = json.loads(pq.read_schema(summary.output).metadata[b"rag_clip"])
    assert facts["prompts"]["chosen"]["best"] == "names"


def test_a_file_with_failed_rows_and_one_without_any_good_row_are_written(tmp_path: Path) -> None:
    table = pq.read_table(noisy_images(tmp_path, count=30))
    broken = pa.table({"image": [b"no image"] * 3, "truth": ["red"] * 3}, schema=table.schema)
    for name, rows in (("some", pa.concat_tables([broken, table])), ("none", broken)):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
        candidates = {"nothing": meaningless_prompts(*NAMES), "names": colour_prompts(*NAMES)}
        output = tmp_path / f"{name}-out.parquet"
        run(tmp_path / f"{name}.parquet", output, prompts=candidates, scoring=Scoring(refine=True))
        written = pq.read_table(output).to_pylist()
        facts = pq.read_schema(output).metadata[b"rag_clip"].decode()
        assert "Infinity" not in facts  # which JSON does not have
        assert (json.loads(facts)["refined"]["concentration"] is None) == (name == "none")
        assert [row["label_alone"] for row in written[:3]] == [None] * 3
        assert all(row["error"] for row in written[:3])
        assert all(row["label"] for row in written[3:])


def test_chunks_of_rows_are_refined_like_files_of_their_own(tmp_path: Path) -> None:
    source = noisy_images(tmp_path, count=150)
    table, second = pq.read_table(source), {"second": ToyEncoder(dim=8, name="second")}
    facts, tables = [], []
    for start in (0, 64, 128):
        pq.write_table(table.slice(start, 64), tmp_path / "part.parquet")
        part = run(tmp_path / "part.parquet", tmp_path / "p.parquet", scoring=Scoring(refine=True, further=second))
        assert part.refined is not None
        facts.append(part.refined)
        tables.append(pq.read_table(part.output))
    expected = pa.concat_tables(tables).to_pydict()
    for shard in (1024, 50):  # of rows in memory, which is no border of a chunk
        running = Running(0, batch_size=13, shard_rows=shard)
        output = tmp_path / f"chunks-{shard}.parquet"
        summary = run(source, output, scoring=Scoring(refine=True, further=second, chunk=64), running=running)
        chunks = pq.read_table(output)
        assert chunks["label"].to_pylist() == expected["label"]
        assert chunks["label_alone"].to_pylist() == expected["label_alone"]
        assert chunks["score"].to_pylist() == pytest.approx(expected["score"], abs=1e-5)
        assert json.loads(chunks.schema.metadata[b"rag_clip"])["refined"] == {"chunk": 64, "chunks": 3}
        found = summary.refined
        assert found is not None
        changed = np.mean(np.array(expected["label"]) != np.array(expected["label_alone"]))
        assert (found.images, found.chunk, found.predicted) == (150, 64, 3)
        assert found.changed == pytest.approx(changed)
        assert found.weight == pytest.approx((64 * facts[0].weight + 64 * facts[1].weight + 22 * facts[2].weight) / 150)
        assert found.concentration == sorted(each.concentration or 0 for each in facts)[1]
    whole = pq.read_table(run(source, tmp_path / "whole.parquet", scoring=Scoring(refine=True, chunk=150)).output)
    alone = pq.read_table(run(source, tmp_path / "alone.parquet", scoring=Scoring(refine=True)).output)
    assert whole["score"].equals(alone["score"])


def test_rows_in_another_order_within_a_chunk_get_the_same_labels(tmp_path: Path) -> None:
    table = pq.read_table(noisy_images(tmp_path, count=128))
    order = np.concatenate([np.random.default_rng(0).permutation(64), 64 + np.random.default_rng(1).permutation(64)])
    pq.write_table(table.take(order), tmp_path / "moved.parquet")
    scoring = Scoring(refine=True, chunk=64)
    first, second = (
        run(tmp_path / f"{n}.parquet", tmp_path / f"{n}-out.parquet", scoring=scoring).to_polars()
        for n in ("images", "moved")
    )
    assert second["label"].to_list() == first["label"][order.tolist()].to_list()
    assert second["score"].to_list() == pytest.approx(first["score"][order.tolist()].to_list(), abs=1e-5)


def test_chunks_go_on_over_files_and_may_have_no_image_that_can_be_read(tmp_path: Path) -> None:
    table = pq.read_table(noisy_images(tmp_path, count=90))
    broken = pa.table({"image": [b"no image"] * 45, "truth": ["red"] * 45}, schema=table.schema)
    (tmp_path / "files").mkdir()
    for name, rows in (("a", table.slice(0, 50)), ("b", broken), ("c", table.slice(50))):
        pq.write_table(rows, tmp_path / "files" / f"{name}.parquet")
    pq.write_table(pa.concat_tables([table.slice(0, 50), broken, table.slice(50)]), tmp_path / "one.parquet")
    scoring = Scoring(refine=True, chunk=20)
    found = [
        run(tmp_path / name, tmp_path / f"{name}-out.parquet", scoring=scoring) for name in ("files", "one.parquet")
    ]
    tables = [pq.read_table(summary.output) for summary in found]
    assert tables[0].select(["label", "score", "error"]).equals(tables[1].select(["label", "score", "error"]))
    assert tables[0]["label"].null_count == tables[0]["label_alone"].null_count == 45
    assert found[0].refined is not None
    assert (found[0].refined.images, found[0].failed) == (90, 45)


def test_a_chunk_too_small_or_without_refinement_is_refused() -> None:
    with pytest.raises(ValueError, match="up to 16 images are left as they are, so give more"):
        Scoring(refine=True, chunk=16)
    with pytest.raises(ValueError, match="chunks of 64 rows are refined, and nothing else; add refine"):
        Scoring(chunk=64)


def test_sigmoid_scores_cannot_be_refined() -> None:
    with pytest.raises(ValueError, match="use softmax scores"):
        Scoring(scores="sigmoid", refine=True)


def test_the_command_takes_several_prompts_and_refines(tmp_path: Path) -> None:
    source = noisy_images(tmp_path, count=60)
    for name, prompts in (("names", colour_prompts(*NAMES)), ("nothing", meaningless_prompts(*NAMES))):
        write_prompts(Prompts(prompts.labels, prompts.texts, {"method": name}), tmp_path / f"prompts-{name}.parquet")
    arguments = ["classify", source.name, "--prompts", "prompts-names.parquet", "prompts-nothing.parquet"]
    found = command(*arguments, "-o", "out.parquet", "--model", "demo", "--refine", "--workers", "0", folder=tmp_path)
    assert found.code == 0, found.errors
    assert "60 images chose the texts of names for " in found.out
    assert "refined by 60 images: " in found.out
    assert "label_alone" in pq.read_schema(tmp_path / "out.parquet").names
    alone = [*arguments[:4], "-o", "out.parquet", "--model", "demo", "--workers", "0", "--refine"]
    found = command(*alone, "chunk=30", folder=tmp_path)
    assert (found.code, "refined by 60 images, 30 rows at a time: " in found.out) == (0, True), found.errors
    for wrong in ("chunk=many", "rows=30", "chunk=-3"):
        found = command(*alone, wrong, folder=tmp_path)
        assert found.code == 1
        assert f"--refine takes nothing or chunk=N, such as chunk=256, not '{wrong}'" in found.errors
