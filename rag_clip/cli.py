"""The command line: verbs that parse, call and print. Everything heavy is imported when a verb runs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from rag_clip.console import Console

FAILED, SOME_ROWS_FAILED, INTERRUPTED = 1, 3, 130

app = App(
    name="rag-clip",
    help="Turn class names and a corpus of captions into an image classifier, and see its evidence.",
    help_epilogue=(
        "Exit codes: 0 done, 1 could not go on (the message says why), 2 the command was not understood, "
        "3 done, but some rows failed, 130 interrupted (run the same command again to go on)."
    ),
)
index_app = App(name="index", help="Build and inspect caption indexes.")
app.command(index_app)

Model = Annotated[str, Parameter(help="demo, NAME:PRETRAINED, hf-hub:OWNER/NAME, local-dir:FOLDER or a checkpoint.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print the summary as JSON.")]
Device = Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, mps; chosen by default.")]
Precision = Annotated[Literal["fp32", "bf16", "fp16"] | None, Parameter(help="Chosen by device by default.")]


@index_app.command
def build(
    captions: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    index: Annotated[str, Parameter(help="A folder, or http://HOST:6333[/COLLECTION] of a Qdrant server.")],
    model: Model,
    text_column: str | None = None,
    source_column: str | None = None,
    schema: Annotated[Path | None, Parameter(help="A TOML like index/captions.toml.")] = None,
    device: Device = None,
    precision: Precision = None,
    as_json: Json = False,
) -> int:
    """Clean the captions of Parquet files, embed them, and write them to an index; run again to go on or to add."""

    def job(console: Console) -> object:
        from rag_clip.encoder import load_encoder
        from rag_clip.pipelines.captions import build_index
        from rag_clip.store import load_schema

        summary = build_index(
            captions,
            index=index,
            encoder=load_encoder(model, device=device, precision=precision),
            text_column=text_column,
            source_column=source_column,
            schema=load_schema(schema) if schema else None,
            report=console.report,
        )
        console.say(
            f"{summary.count} captions in {summary.location}: {summary.added} added, "
            f"{summary.already_there} already there, {sum(summary.dropped.values())} dropped of {summary.read}"
        )
        for reason, count in summary.dropped.items():
            console.say(f"  dropped, {reason}: {count}")
        console.stages(summary.seconds)
        return summary

    return _run(job, as_json=as_json)


@index_app.command
def info(
    index: Annotated[str, Parameter(help="A folder, or the address of a Qdrant server.")],
    /,
    *,
    as_json: Json = False,
) -> int:
    """Say what an index holds, with which encoder it was built, and whether it is ready."""

    def job(console: Console) -> object:
        from rag_clip.store import open_store

        with open_store(index) as store:
            facts = store.info()
        for key, value in _flatten(facts):
            console.say(f"{key}: {value}")
        return facts

    return _run(job, as_json=as_json)


@app.command
def enhance(
    labels: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="prompts.parquet, or prompts.json to edit.")],
    index: Annotated[str | None, Parameter(help="The caption index; not needed for templates.")] = None,
    method: Literal["templates", "retrieved", "random"] = "retrieved",
    model: Model,
    weight: Annotated[float, Parameter(help="Weight of the captions together; the templates have the rest.")] = 0.25,
    limit: Annotated[int, Parameter(help="Captions per class, at most.")] = 100,
    search: Literal["dense", "lexical", "hybrid"] = "hybrid",
    candidates: Annotated[int, Parameter(help="Captions searched per class, before the filter.")] = 1000,
    keep: Annotated[
        Literal["token", "substring", "phrase"], Parameter(help="How a caption must hold the class name.")
    ] = "token",
    names: Annotated[
        Literal["kept", "dropped"], Parameter(help="Class names in captions: as published, or left out.")
    ] = "kept",
    seed: Annotated[int, Parameter(help="Seed of the random control.")] = 0,
    format: Annotated[Literal["parquet", "json"] | None, Parameter(help="By the output's suffix by default.")] = None,
    device: Device = None,
    precision: Precision = None,
    as_json: Json = False,
) -> int:
    """Turn a label file (.txt, .toml, .json, .parquet) into prompts: templates, and captions found for each class."""

    def job(console: Console) -> object:
        from rag_clip.encoder import load_encoder
        from rag_clip.enhance import Settings
        from rag_clip.enhance import enhance as enhance_labels
        from rag_clip.labels import read_labels
        from rag_clip.progress import StageClock
        from rag_clip.prompt_file import check_prompts_path, write_prompts
        from rag_clip.store import open_store

        path, clock = output.with_suffix(f".{format}") if format else output, StageClock()
        check_prompts_path(path)
        label_set = read_labels(labels)
        settings = Settings(
            weight=weight, limit=limit, search=search, candidates=candidates, keep=keep, names=names, seed=seed
        )
        with clock.stage("load model"):
            encoder = load_encoder(model, device=device, precision=precision)
        options: dict[str, Any] = {"encoder": encoder, "method": method, "settings": settings, "clock": clock}
        if index is None:
            prompts = enhance_labels(label_set, report=console.report, **options)
        else:
            with open_store(index) as store:
                prompts = enhance_labels(label_set, store=store, report=console.report, **options)
        write_prompts(prompts, path)
        captions = [sum(text.role == "context" for text in group) for group in prompts.texts]
        console.say(
            f"{path}: {len(label_set)} classes, {sum(map(len, prompts.texts))} texts, "
            f"{sum(captions)} captions; {captions.count(0)} classes have templates alone"
        )
        console.stages(clock.seconds)
        facts = {"output": path, "classes": len(label_set), "captions": sum(captions)}
        facts |= {"without_captions": captions.count(0), "provenance": prompts.provenance}
        return {**facts, "seconds": clock.seconds, "bottleneck": clock.bottleneck}

    return _run(job, as_json=as_json)


@app.command
def classify(
    images: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    prompts: Path,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="predictions.parquet")],
    model: Model,
    image_column: str = "image",
    top_k: int = 5,
    features: Annotated[Path | None, Parameter(help="Keep image features here, for other prompts.")] = None,
    workers: Annotated[int | None, Parameter(help="Decoding processes; 0 decodes in this one.")] = None,
    batch_size: int = 256,
    device: Device = None,
    precision: Precision = None,
    as_json: Json = False,
) -> int:
    """Classify the images of Parquet files; every input column stays, with label, score, top-k and error beside."""

    def job(console: Console) -> object:
        from rag_clip.encoder import load_encoder
        from rag_clip.pipelines.classify import classify as classify_images
        from rag_clip.prompt_file import read_prompts

        summary = classify_images(
            images,
            prompts=read_prompts(prompts),
            output=output,
            encoder=load_encoder(model, device=device, precision=precision),
            image_column=image_column,
            top_k=top_k,
            features_dir=features,
            workers=workers,
            batch_size=batch_size,
            report=console.report,
        )
        console.say(
            f"{summary.output}: {summary.rows} rows, {summary.failed} failed; "
            f"{summary.decoded} decoded, {summary.from_cache} from cached features"
        )
        console.stages(summary.seconds)
        return summary

    return _run(job, as_json=as_json)


@app.command
def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder for the files, the index and the report.")] = Path("rag-clip-demo"),
    as_json: Json = False,
) -> int:
    """Run index, enhance and classify on the bundled world, and compare templates, retrieval and its control."""

    def job(console: Console) -> object:
        from rag_clip.encoder import load_encoder
        from rag_clip.pipelines.demo import run_demo

        summary = run_demo(out, encoder=load_encoder("demo", device="cpu"), report=console.report)
        console.say(summary.facts)
        console.table("top-1 accuracy, %", summary.cells())
        console.stages(summary.seconds)
        console.say(f"report: {summary.report}")
        return summary

    return _run(job, as_json=as_json)


def main() -> None:
    """Run the command line; the exit code is the verb's."""
    sys.exit(app(result_action="return_value"))


def _run(job: Callable[[Console], object], *, as_json: bool) -> int:
    console, start = Console(quiet=as_json), time.perf_counter()
    try:
        with console:
            facts = _to_dict(job(console))
        if as_json:
            print(json.dumps({**facts, "wall_seconds": round(time.perf_counter() - start, 3)}, default=str))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"rag-clip: {error}", file=sys.stderr)
        return FAILED
    return SOME_ROWS_FAILED if facts.get("failed") else 0


def _is_expected(error: Exception) -> bool:
    """Tell bad input and a bad world, whose message is the answer, from a fault of ours, whose trace is."""
    # An error of ours can only come from a module that is loaded; loading torch to explain a typo takes seconds.
    ours = (("rag_clip.encoder", "EncoderError"), ("rag_clip.store", "StoreError"))
    loaded = tuple(getattr(sys.modules[module], name) for module, name in ours if module in sys.modules)
    return isinstance(error, (ValueError, OSError, *loaded))


def _to_dict(summary: object) -> dict[str, Any]:
    if is_dataclass(summary) and not isinstance(summary, type):
        return asdict(summary)
    return dict(summary) if isinstance(summary, Mapping) else {}


def _flatten(facts: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in facts.items():
        name = f"{above}.{key}" if above else str(key)
        pairs += _flatten(value, name) if isinstance(value, Mapping) else [(name, value)]
    return pairs
