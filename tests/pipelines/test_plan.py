from __future__ import annotations

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from rag_clip.cli import app
from rag_clip.pipelines.embed import embed_captions
from rag_clip.pipelines.load import load_shards
from rag_clip.pipelines.plan import Machines, load_rates, plan_index, with_numbers
from rag_clip.store import load_schema
from rag_clip.testing import ToyEncoder

B32, L14 = "ViT-B-32:openai", "ViT-L-14:openai"


def test_vectors_copies_and_graph_follow_from_the_schema_by_hand():
    made = plan_index(10**8, model=L14)
    rates = load_rates()["bytes"]
    graph = int(10**8 * 4 * (32 + 16 / 15))
    assert made.disk == {
        "shards": 10**8 * (rates["shard"] + 2 * 768),
        "vectors": 10**8 * 768 * 4 + 10**8 * (768 + 8) + graph,
        "texts": 10**8 * rates["text"] + rates["log"],
        "postings": 0,  # over 20 million
    }
    assert made.memory["vectors and graph"] == 10**8 * (768 + 8) + graph
    assert plan_index(10**7, model=L14).disk["postings"] == 10**7 * (rates["posting"] + 4 * 768)


def test_numbers_of_half_the_size_halve_the_vectors():
    half = with_numbers(load_schema(), vectors="float16", copies="none")
    made = plan_index(10**8, model=L14, schema=half)
    graph = int(10**8 * 4 * (32 + 16 / 15))
    assert made.disk["vectors"] == 10**8 * 768 * 2 + graph
    assert made.memory["vectors and graph"] == 10**8 * 768 * 2 + graph


def test_a_larger_text_tower_is_slower_by_its_multiplications():
    small, large = (plan_index(10**6, model=name, machines=Machines(hours=1)) for name in (B32, L14))
    rates = load_rates()
    clean = 10**6 * rates["microseconds"]["clean"] / 3.6e9
    base = 10**6 * 2.48 / 128 / 3600
    assert small.hours["encode"] == pytest.approx(base + clean)
    assert large.hours["encode"] == pytest.approx(base * (768 / 512) ** 2 + clean)
    assert (small.devices, large.devices) == (6, 13)


def test_a_rate_that_was_measured_replaces_the_extrapolated_one():
    made = plan_index(3_600_000, model=B32, machines=Machines(caption_rate=1000.0))
    clean = 3_600_000 * load_rates()["microseconds"]["clean"] / 3.6e9
    assert made.hours["encode"] == pytest.approx(1 + clean)
    assert not any("tower" in note for note in made.extrapolated)
    assert any("text tower" in note for note in plan_index(10, model=B32).extrapolated)


def test_nodes_hold_every_copy_of_the_index_in_three_quarters_of_their_memory():
    schema = load_schema()
    twice = schema.model_copy(update={"server": schema.server.model_copy(update={"replication_factor": 2})})
    one, two = (plan_index(10**8, model=B32, schema=each, machines=Machines(memory=32)) for each in (schema, twice))
    assert one.nodes == -(-one.search_memory // (24 * 10**9))
    assert two.nodes == -(-2 * one.search_memory // (24 * 10**9))
    assert (one.folder_fits, plan_index(10**6, model=B32).folder_fits) == (False, True)
    assert plan_index(10, model=B32, schema=twice).nodes == 2


def test_images_take_two_vectors_and_the_work_of_both_towers():
    made, captions = plan_index(10**6, model=B32, images=True), plan_index(10**6, model=B32)
    assert made.disk["shards"] - captions.disk["shards"] == 10**6 * 2 * 512
    assert made.hours["encode"] - captions.hours["encode"] == pytest.approx(10**6 * 0.125 / 3600)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "0 rows are nothing to plan"),
        ({"rows": 10, "model": "roberta-ViT-B-32:laion2b_s12b_b32k"}, "text tower is; .* give --caption-rate"),
        ({"rows": 10, "model": "RN50:openai", "images": True}, "image tower is; .* give --image-rate"),
    ],
)
def test_what_cannot_be_planned_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plan_index(**{"model": B32, **options})


def test_a_machine_without_memory_is_refused():
    with pytest.raises(ValueError, match=r"memory is 0; give a number above 0"):
        Machines(memory=0)


def test_the_plan_of_a_real_index_is_within_a_third_of_its_size(tmp_path):
    texts = "\n".join(f"a red flag number {row} over the harbour of an old town" for row in range(2000))
    (tmp_path / "captions.txt").write_text(texts)
    embed_captions([tmp_path / "captions.txt"], shards=tmp_path / "shards", encoder=ToyEncoder(dim=512))
    load_shards(tmp_path / "shards", index=tmp_path / "index")
    sizes = {name: _size(tmp_path / name) for name in ("shards", "index", "index/postings")}
    made = plan_index(2000, model=B32)
    assert sizes["shards"] == pytest.approx(made.disk["shards"], rel=0.33)
    assert sizes["index/postings"] == pytest.approx(made.disk["postings"], rel=0.33)


def _size(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_verb_prints_the_plan_and_what_is_extrapolated():
    code, out = _call("--captions", "1e8", "--model", L14)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith("100,000,000 captions, 768 wide: ")
    assert [line.split(":")[0] for line in lines[1:3]] == ["disk", "memory"]
    assert "does not fit in one machine of 64 GB" in out
    assert any(line.startswith("measured: text tower and image tower: python tests/benchmarks/") for line in lines)
    assert any(line.startswith("extrapolated: the text tower") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", B32), "give the number of --captions, or of --images"),
        (("--captions", "1.5", "--model", B32), "the number of rows is 1.5; give a whole number"),
        (("--captions", "nan", "--model", B32), "the number of rows is nan; give a whole number"),
        (("--captions", "10", "--model", "timm:resnet18.a1_in1k"), "has no text tower"),
        (("--captions", "10", "--model", "ViT-B-99:openai"), "unknown model 'ViT-B-99'"),
    ],
)
def test_the_verb_refuses_in_one_sentence(arguments, message):
    code, out = _call(*arguments)
    assert (code, message in out, out.count("\n")) == (1, True, 1)


def _call(*arguments: str) -> tuple[int, str]:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        code = app(["index", "plan", *arguments], result_action="return_value")
    return int(code), out.getvalue() + errors.getvalue()
