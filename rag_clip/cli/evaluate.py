"""`rag-clip evaluate`: measure prompts and heads on labelled images, and compare what was measured before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.run import Device, Json, Precision, run

if TYPE_CHECKING:
    from rag_clip.pipelines.evaluation.results import Result

Many = Parameter(negative=(), consume_multiple=True)
SHOWN = {"accuracy": "top-1", "mean_per_class": "per class", "acc_c": "Acc-C", "acc_e": "Acc-E", "acc_s": "Acc-S"}


def evaluate(
    tasks: Annotated[list[Path] | None, Parameter(negative=())] = None,
    /,
    *,
    prompts: Annotated[list[Path] | None, Many, Parameter(help="Prompts files, each a run.")] = None,
    model: Annotated[str, Parameter(help="The encoder, as for classify.")] = "",
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="results.parquet")] = Path("results.parquet"),
    page: Annotated[Path | None, Parameter(name="--report", help="The page; by default beside the output.")] = None,
    labels: Annotated[Path | None, Parameter(help="Classes and groups of plain Parquet; else the prompts'.")] = None,
    head: Annotated[list[str] | None, Many, Parameter(help="Also measure these heads on each prompts file.")] = None,
    support: Annotated[Path | None, Parameter(help="A support file, for the heads.")] = None,
    head_options: Annotated[Path | None, Parameter(help="TOML with settings, a table per head.")] = None,
    validation: Annotated[Path | None, Parameter(help="A support file that heads may choose settings by.")] = None,
    second: Annotated[list[str] | None, Many, Parameter(help="Further encoders that heads need.")] = None,
    index: Annotated[
        str | None, Parameter(help="The index of the prompts: its captions are not encoded again.")
    ] = None,
    features: Annotated[Path | None, Parameter(help="Keep image features here.")] = None,
    image_column: str = "image",
    label_column: str = "label",
    workers: Annotated[int | None, Parameter(help="Decoding processes; 0 decodes in this one.")] = None,
    device: Device = None,
    precision: Precision = None,
    as_json: Json = False,
) -> int:
    """Measure every prompts file, alone and with every head, on every task; what is finished is not run again."""

    def job(console: Console) -> object:
        from rag_clip.encoder import load_encoder
        from rag_clip.heads import read_options
        from rag_clip.labels import read_labels
        from rag_clip.pipelines.evaluate import evaluate as evaluate_runs
        from rag_clip.pipelines.evaluate_report import write_evaluation
        from rag_clip.pipelines.evaluation.runs import choose_heads, read_prompt_files
        from rag_clip.pipelines.evaluation.tasks import ImageTask

        if not tasks or not prompts or not model:
            raise ValueError("give labelled images, --prompts and --model")
        options = read_options(head_options) if head_options else {}
        heads = choose_heads(head or (), support=support, options=options, validation=validation)
        texts = read_prompt_files(prompts)
        classes = read_labels(labels) if labels else texts[0].prompts.labels
        encoder = load_encoder(model, device=device, precision=precision)
        summary = evaluate_runs(
            [ImageTask(task.stem, (task,), classes, image_column, label_column) for task in tasks],
            texts=texts,
            output=output,
            encoder=encoder,
            heads=heads,
            others={name: load_encoder(name, device=device, precision=precision) for name in second or ()},
            index=index,
            features_dir=features,
            workers=workers,
            on_result=lambda result: console.say(_line(result)),
            report=console.report,
        )
        console.say(f"{output}: {summary.measured} runs measured, {summary.found} there already")
        place = page or output.with_suffix(".html")
        write_evaluation(place, summary.results, encoder=encoder)
        console.say(f"report: {place}")
        if summary.measured:
            console.stages(summary.seconds)
        return {
            "output": output,
            "report": place,
            "measured": summary.measured,
            "found": summary.found,
            "failed": summary.failed,
            "runs": [_facts(result) for result in summary.results],
            "seconds": summary.seconds,
            "bottleneck": summary.bottleneck,
        }

    return run(job, as_json=as_json)


def _line(result: Result) -> str:
    """Say a run in one line: task, run, tier, and its main numbers in percent with their intervals."""
    cells = [f"{result.task} | {result.run} [{result.tier}]"]
    for metric, title in SHOWN.items():
        if one := result.get(metric):
            bounds = "" if one.low is None or one.high is None else f" [{one.low:.1%}, {one.high:.1%}]"
            cells.append(f"{title} {one.value:.1%}{bounds}")
    return "  ".join(cells)


def _facts(result: Result) -> dict[str, object]:
    whole = {one.metric: [one.value, one.low, one.high] for one in result.measures if not one.item}
    return {"task": result.task, "run": result.run, "tier": result.tier, "key": result.key, "measures": whole}
