"""`rag-clip evaluate`: measure prompts and heads on labelled images, and compare what was measured before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.evaluate_options import (
    ENCODER,
    HEADS,
    PLACES,
    AnyEncoder,
    Heads,
    Index,
    Many,
    Names,
    Places,
    PromptPaths,
)
from rag_clip.cli.recorded_encoder import find_encoder, records_of
from rag_clip.cli.run import SHOWN, Force, Shown, Workers, run
from rag_clip.display import counted

if TYPE_CHECKING:
    from rag_clip.evaluation.compare import Pair
    from rag_clip.evaluation.results import Result
    from rag_clip.pipelines.evaluate import EvaluateSummary
    from rag_clip.progress import Progress, Report
    from rag_clip.protocols import Encoder

METRICS = {
    "accuracy": "top-1",
    "mean_per_class": "per class",
    "map_11_point": "mAP",
    "roc_auc": "AUC",
    "acc_c": "Acc-C",
    "acc_e": "Acc-E",
    "acc_s": "Acc-S",
    "ece": "ECE",
    "certified": "certified",
}


def evaluate(
    tasks: Annotated[
        list[str] | None,
        Parameter(negative=(), help="Labelled images, features (.parquet, .npz), task files, or bundled tasks."),
    ] = None,
    /,
    *,
    prompts: PromptPaths = None,
    encoder: AnyEncoder = ENCODER,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="results.parquet")] = Path("results.parquet"),
    page: Annotated[Path | None, Parameter(name="--report", help="The page; by default beside the output.")] = None,
    compare: Annotated[list[Path] | None, Many, Parameter(help="Compare two results files instead.")] = None,
    check: Annotated[bool, Parameter(negative=(), help="Only say what is missing or does not fit.")] = False,
    places: Places = PLACES,
    heads: Heads = HEADS,
    scale: Annotated[float | None, Parameter(help="Of the encoder of a features file that does not say it.")] = None,
    index: Index = None,
    names: Names = None,
    features: Annotated[Path | None, Parameter(help="Keep image features here.")] = None,
    workers: Workers = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Measure every prompts file, alone and with every head, on every task; what is finished is not run again.

    A task is labelled images (Parquet, a webdataset tar, a list .csv, a folder or URL of these or of images), a file of
    features (.parquet, .npz), a task file .toml, or the name of a bundled task or suite, such as elevater/eurosat or
    elevater. OUTPUT has a row per number; a page with charts lies beside it. With --shots, heads are measured on images
    drawn from the train split of the task, or from its one file, whose other images are measured; a run is the mean
    over the draws, -/+ their standard deviation. --shots all takes the whole train split, once. With --names, the names
    that would take most images from prompts are found: lines of a .txt file, names of a label file, or the 20,000 most
    frequent phrases of captions.
    """

    def job(console: Console) -> object:
        if compare is not None:
            return _compare(console, compare, page, force)

        from rag_clip.classifiers.reuse import Reuse
        from rag_clip.evaluation.check import check_evaluation
        from rag_clip.evaluation.image_tasks import image_task, task_inputs
        from rag_clip.evaluation.rival_names import read_candidates
        from rag_clip.evaluation.runs import read_prompt_files, unused_prompts
        from rag_clip.evaluation.shot_runs import Heads
        from rag_clip.files.outputs import check_outputs
        from rag_clip.pipelines.evaluate import evaluate as evaluate_runs
        from rag_clip.pipelines.evaluate import evaluate_outputs
        from rag_clip.pipelines.running import Running

        chosen, few_shot = heads.choose()
        texts = read_prompt_files(prompts) if prompts else []
        opened = places.open(tasks or (), texts)
        supports = [heads.support, heads.validation]
        named = find_encoder(encoder, records_of(prompts=prompts or (), supports=supports, index=index))
        if not check:
            read = [tasks, task_inputs(opened), prompts, places.labels, heads.files, index, names]
            written = [*evaluate_outputs(output, features), (page or output.with_suffix(".html"), "evaluate")]
            check_outputs(written, inputs=[*read, named.files], force=force)
        loaded = named.load(console) if named.options.model else None
        if check:
            mark = loaded.fingerprint if loaded else None
            problems = check_evaluation(opened, texts=texts, heads=chosen, few_shot=few_shot, encoder=mark)
            return _say_problems(console, len(opened), problems)
        found = [replace(image_task(task, folder), scale=scale) for task, folder in opened]
        for one in unused_prompts(texts, found):
            console.say(f"{one.path} is not measured: no task has its {len(one.prompts.labels)} classes")
        summary = evaluate_runs(
            found,
            prompts=texts,
            output=output,
            encoder=loaded,
            candidates=read_candidates(names, report=console.report) if names else None,
            heads=Heads(chosen, few_shot, encoder.load_second(console)),
            reuse=Reuse(index, features),
            running=Running(workers, force=force, report=_saying_results(console)),
        )
        return _conclude(console, summary, page or output.with_suffix(".html"), loaded, force)

    return run(job, shown)


def _saying_results(console: Console) -> Report:
    """Return a report that says each result in a line, beside the progress."""
    from rag_clip.evaluation.results import Result

    def report(event: Progress) -> None:
        if isinstance(event.item, Result):
            console.say(_line(event.item))
        console.report(event)

    return report


def _conclude(console: Console, summary: EvaluateSummary, page: Path, encoder: Encoder | None, force: bool) -> object:
    from rag_clip.report.evaluation import write_evaluation

    named = {one.task: one.settings.candidates for one in summary.results if one.settings.candidates}
    for task, facts in named.items():
        console.say(f"{facts.names} names of {facts.place}, {facts.left_out} left out as those of {task}")
    for one in {one.task: one for one in summary.results if one.counts.failed}.values():
        row, reason = next(iter(one.counts.reasons.items()))
        console.say(f"{counted(one.counts.failed, 'image')} of {one.task} cannot be used, such as row {row}: {reason}")
    for name in dict.fromkeys(one.run for one in summary.results):
        scores = [one.main.value for one in summary.results if one.run == name]
        if len(scores) > 1:
            console.say(f"{name}: mean of {len(scores)} tasks {sum(scores) / len(scores):.1%}")
    console.say(str(summary))
    write_evaluation(page, summary.results, encoder=encoder, force=force)
    console.say(f"report: {page}")
    if summary.measured:
        console.stages(summary.seconds)
    return {
        "output": summary.output,
        "report": page,
        "measured": summary.measured,
        "found": summary.found,
        "failed": summary.failed,
        "runs": [_facts(result) for result in summary.results],
        "seconds": summary.seconds,
        "bottleneck": summary.bottleneck,
    }


def _compare(console: Console, paths: list[Path], page: Path | None, force: bool) -> object:
    from rag_clip.evaluation.compare import compare_results
    from rag_clip.evaluation.results import read_results, runs_folder
    from rag_clip.files.outputs import check_outputs
    from rag_clip.report.evaluation import write_comparison

    if len(paths) != 2:
        raise ValueError(f"--compare takes two results files, before and after; found {len(paths)}")
    check_outputs([(page, "evaluate")], inputs=[paths, map(runs_folder, paths)], force=force)
    found = compare_results(*(read_results(path) for path in paths))
    for pair in found.pairs:
        console.table(pair.name, _cells(pair))
        if change := pair.difference:
            console.say(
                f"paired: {change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}], {change.gained} images gained, "
                f"{change.lost} lost, probability {change.probability:.2g} if neither were better\n"
            )
    for names, path in ((found.only_before, paths[0]), (found.only_after, paths[1])):
        if names:
            console.say(f"only in {path}: {', '.join(names)}")
    if page:
        write_comparison(page, found, force=force)
        console.say(f"report: {page}")
    return {
        "pairs": [
            {"name": pair.name, "before": _facts(pair.before), "after": _facts(pair.after), "paired": pair.difference}
            for pair in found.pairs
        ],
        "only_before": found.only_before,
        "only_after": found.only_after,
    }


def _say_problems(console: Console, count: int, problems: tuple[str, ...]) -> object:
    for problem in problems:
        console.say(problem)
    if problems:
        raise ValueError(f"{len(problems)} problems in {count} tasks; mend them and check again")
    console.say(f"{count} tasks can be measured")
    return {"tasks": count, "problems": []}


def _cells(pair: Pair) -> dict[str, dict[str, str]]:
    cells = {}
    for metric, title in METRICS.items():
        one, two = pair.before.get(metric), pair.after.get(metric)
        if one and two:
            change = f"{two.value - one.value:+.1%}"
            cells[title] = {"before": f"{one.value:.1%}", "after": f"{two.value:.1%}", "change": change}
    return cells


def _line(result: Result) -> str:
    """Say a run in one line: task, run, tier, and its main numbers in percent with their intervals."""
    cells = [f"{result.task} | {result.run} [{result.tier}]"]
    for metric, title in METRICS.items():
        if one := result.get(metric):
            bounds = " [{:.1%}, {:.1%}]".format(*one.bounds) if one.bounds else ""
            cells.append(f"{title} {one.value:.1%}{bounds}")
    return "  ".join(cells)


def _facts(result: Result) -> dict[str, object]:
    whole = {one.metric: [one.value, one.low, one.high] for one in result.measures if not one.item}
    return {"task": result.task, "run": result.run, "tier": result.tier, "key": result.key, "measures": whole}
