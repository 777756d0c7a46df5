"""The verb `rag-clip evaluate`: evaluate prompts and heads on labelled images, and compare earlier results."""

from __future__ import annotations

from dataclasses import asdict, replace
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
from rag_clip.cli.run import SHOWN, TASKS, Force, Ray, Shown, Workers, run, spread
from rag_clip.display import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_clip.evaluation.compare import Pair
    from rag_clip.evaluation.results import Result
    from rag_clip.pipelines.evaluate import EvaluateSummary
    from rag_clip.pipelines.running import Running
    from rag_clip.progress import ProgressEvent, Report
    from rag_clip.protocols import Encoder
    from rag_clip.protocols import Workers as Elsewhere

MOST_LINES, RANKED = 20, 10  # runs that are said one by one, and in the ranking of more
METRICS = {
    "accuracy": "top-1",
    "mean_per_class": "per class",
    "map_11_point": "mAP",
    "roc_auc": "AUC",
    "fpr95": "FPR95",
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
    page: Annotated[
        Path | None, Parameter(name="--report", help="The HTML report; by default beside the output.")
    ] = None,
    compare: Annotated[list[Path] | None, Many, Parameter(help="Compare two results files instead.")] = None,
    check: Annotated[bool, Parameter(negative=(), help="Only list what is missing or does not fit.")] = False,
    retrieval: Annotated[
        bool,
        Parameter(
            group=TASKS,
            negative=(),
            help="Rank captions for images and images for captions instead; TASKS are pairs, or one .npz.",
        ),
    ] = False,
    captioning: Annotated[
        bool,
        Parameter(group=TASKS, negative=(), help="Compare written captions with references instead, by BLEU-4, CIDEr."),
    ] = False,
    segmentation: Annotated[
        Path | None,
        Parameter(group=TASKS, help="Compare masks of `segment` with the known masks of this file instead, by mIoU."),
    ] = None,
    shifted_from: Annotated[
        str | None,
        Parameter(group=TASKS, help="The task that all others are shifted from; print how robust each run is."),
    ] = None,
    places: Places = PLACES,
    heads: Heads = HEADS,
    choose: Annotated[
        bool,
        Parameter(negative=(), help="Also evaluate the texts that unlabelled images choose among the prompts files."),
    ] = False,
    refine: Annotated[
        bool, Parameter(negative=(), help="Also evaluate each run with all images of the task as evidence for each.")
    ] = False,
    hub_bank: Annotated[
        str | None,
        Parameter(help="Also evaluate each prompts file corrected by a bank, as with `classify --hub-bank`."),
    ] = None,
    negatives: Annotated[
        str | None,
        Parameter(
            name="--open",
            help="Also evaluate how well images of held-out classes are told from the others, by names of other "
            "things: a word list, a label file, captions, or a caption index.",
        ),
    ] = None,
    scale: Annotated[
        float | None, Parameter(help="The encoder's logit scale, for a features file that does not record it.")
    ] = None,
    index: Index = None,
    names: Names = None,
    features: Annotated[
        Path | None, Parameter(help="Folder that keeps image features; with --ray by default OUTPUT.features.")
    ] = None,
    shards: Annotated[
        Path | None,
        Parameter(
            group=TASKS, help="Folder that keeps embedded pairs, with --retrieval; with --ray by default OUTPUT.shards."
        ),
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Evaluate every prompts file, alone and with every head, on every task; finished runs are not repeated.

    A task is labelled images (Parquet, a webdataset tar, a list .csv, a folder or URL of these or of images), a file of
    features (.parquet, .npz), a task file .toml, or the name of a bundled task or suite, such as elevater/eurosat or
    elevater. OUTPUT has one row per number; a page with charts is written beside it. With --shots, heads are built on
    images drawn from the train split of the task, or from its only file, and the other images of that file are the test
    set; a run is the mean over the draws, -/+ their standard deviation. --shots all uses the whole train split, once.
    With --names, adversarial names are found: the names that would take most images from the classes, among the lines
    of a .txt file, the names of a label file, or the 20,000 most frequent phrases of captions.
    """

    def job(console: Console) -> object:
        if compare is not None:
            return _compare(console, compare, page, force)

        from rag_clip.pipelines.running import Running

        if retrieval or captioning or segmentation:
            texts_or_masks = captioning or segmentation
            useless = {
                "--retrieval": texts_or_masks and retrieval,
                "--captioning": segmentation and captioning,
                "--prompts": prompts,
                "--report": page,
                "--check": check,
                "the options of tasks": places != PLACES,
                "the options of heads": heads != HEADS or encoder.second,
                "--choose": choose,
                "--refine": refine,
                "--hub-bank": hub_bank,
                "--open": negatives,
                "--scale": scale,
                "--index": index,
                "--names": names,
                "--features": features,
                "--shifted-from": shifted_from,
                "--shards": texts_or_masks and shards,
                "--model": texts_or_masks and encoder.model,
            }
            if given := [option for option, value in useless.items() if value]:
                asked = (
                    "--segmentation compares masks"
                    if segmentation
                    else "--captioning compares texts"
                    if captioning
                    else "--retrieval ranks the captions of pairs"
                )
                raise ValueError(f"{asked} and has no use for {given[0]}; leave it out")
            if segmentation:
                return _segment(console, tasks, segmentation, output, force)
            if captioning:
                return _caption(console, tasks, output, force)
            one, elsewhere = spread(encoder, ray)
            running = Running(workers, force=force, report=console.report, elsewhere=elsewhere)
            return _rank(console, tasks, one, output, _seen_by_all(shards, output, ".shards", elsewhere), running)
        if shards:
            raise ValueError("--shards keeps the pairs of --retrieval; to keep image features, give --features")

        from rag_clip.classifiers.hubs import HubBank
        from rag_clip.classifiers.novelty import PHRASES
        from rag_clip.classifiers.reuse import Reuse
        from rag_clip.evaluation.check import check_evaluation
        from rag_clip.evaluation.image_tasks import image_task, task_inputs
        from rag_clip.evaluation.rival_names import read_candidates
        from rag_clip.evaluation.robustness import check_shifted
        from rag_clip.evaluation.runs import read_prompt_files, unused_prompts
        from rag_clip.evaluation.shot_runs import Heads
        from rag_clip.files.outputs import check_outputs
        from rag_clip.pipelines.evaluate import evaluate as evaluate_runs
        from rag_clip.pipelines.evaluate import evaluate_outputs

        one, elsewhere = spread(encoder, ray)
        kept = _seen_by_all(features, output, ".features", elsewhere)
        chosen, few_shot = heads.choose()
        texts = read_prompt_files(prompts) if prompts else []
        opened = places.open(tasks or (), texts)
        if shifted_from is not None:
            check_shifted([task for task, _ in opened], shifted_from)
        supports = [heads.support, heads.validation]
        named = find_encoder(one, records_of(prompts=prompts or (), supports=supports, index=index))
        if not check:
            read = [tasks, task_inputs(opened), prompts, places.labels, heads.files, index, names, negatives, hub_bank]
            written = [*evaluate_outputs(output, kept), (page or output.with_suffix(".html"), "evaluate")]
            check_outputs(written, inputs=[*read, named.files], force=force)
        loaded = named.load(console) if named.options.model else None
        if check:
            mark = loaded.fingerprint if loaded else None
            problems = check_evaluation(opened, texts=texts, heads=chosen, few_shot=few_shot, encoder=mark)
            return _say_problems(console, len(opened), problems)
        image_tasks = [replace(image_task(task, folder), scale=scale) for task, folder in opened]
        for file in unused_prompts(texts, image_tasks):
            console.say(f"{file.path} is not evaluated: no task has its {counted(len(file.prompts.labels), 'class')}")
        bank = HubBank(hub_bank) if hub_bank else None
        named_things = read_candidates(negatives, phrases=PHRASES, report=console.report) if negatives else None
        summary = evaluate_runs(
            image_tasks,
            prompts=texts,
            output=output,
            encoder=loaded,
            candidates=read_candidates(names, report=console.report) if names else None,
            heads=Heads(chosen, few_shot, one.load_second(console), choose, refine, named_things, bank),
            reuse=Reuse(index, kept),
            running=Running(workers, force=force, report=saying_results(console), elsewhere=elsewhere),
        )
        concluded = _conclude(console, summary, page or output.with_suffix(".html"), loaded, force)
        robust = _compare_shifted(console, summary.results, shifted_from) if shifted_from is not None else []
        return {**concluded, "robustness": robust}

    return run(job, shown)


def _seen_by_all(given: Path | None, output: Path, ending: str, elsewhere: Elsewhere | None) -> Path | None:
    """Return the folder given, or one beside the output where other machines encode, since all must see it."""
    return output.with_name(output.name + ending) if given is None and elsewhere and elsewhere.remote else given


def _rank(
    console: Console,
    pairs: list[str] | None,
    encoder: AnyEncoder,
    output: Path,
    shards: Path | None,
    running: Running,
) -> object:
    from rag_clip.files.outputs import check_outputs
    from rag_clip.pipelines.evaluate_retrieval import evaluate_retrieval

    if not pairs:
        raise ValueError("there are no pairs; give images with captions, or features in one .npz file")
    check_outputs([(output, "evaluate"), (shards, "shards")], inputs=[pairs, encoder.files], force=running.force)
    ranked = evaluate_retrieval(
        list(pairs),
        encoder=encoder.load(console) if encoder.model else None,
        output=output,
        shards=shards,
        running=running,
    )
    console.say(str(ranked))
    for each in ranked.recalls:
        console.say(f"  {each.direction} R@{each.k} {each.value:.1f} % ({each.low:.1f} to {each.high:.1f})")
    return ranked


def _caption(console: Console, captions: list[str] | None, output: Path, force: bool) -> object:
    from rag_clip.pipelines.evaluate_captions import evaluate_captions
    from rag_clip.pipelines.running import Running

    if captions is None or len(captions) != 1:
        raise ValueError(f"--captioning compares one file of captions; {len(captions or ())} are given")
    compared = evaluate_captions(captions[0], output=output, running=Running(force=force))
    console.say(str(compared))
    return compared


def _segment(console: Console, masks: list[str] | None, truth: Path, output: Path, force: bool) -> object:
    from rag_clip.cli.segment import say_quality
    from rag_clip.pipelines.evaluate_masks import evaluate_masks
    from rag_clip.pipelines.running import Running

    if masks is None or len(masks) != 1:
        raise ValueError(f"--segmentation compares one file of masks; {len(masks or ())} are given")
    quality = evaluate_masks(masks[0], truth, output=output, running=Running(force=force))
    say_quality(console, quality)
    return quality


def saying_results(console: Console) -> Report:
    """Return a report that says each result in a line, beside the progress."""
    from rag_clip.evaluation.results import Result

    said = 0

    def report(event: ProgressEvent) -> None:
        nonlocal said
        if isinstance(event.item, Result):
            said += 1
            if said <= MOST_LINES:
                console.say(_line(event.item))
            elif said == MOST_LINES + 1:
                console.say("further runs are only in the ranking below and in the report")
        console.report(event)

    return report


def _compare_shifted(console: Console, results: Sequence[Result], task: str) -> list[dict[str, object]]:
    from rag_clip.evaluation.robustness import robustness

    rows = robustness(results, task)
    others = len({result.task for result in results}) - 1
    console.say(
        f"{counted(others, 'task')} shifted from {task}; effective robustness is accuracy beyond what the line through "
        "the runs without labelled images foretells:"
    )
    for row in rows:
        console.say(
            f"  {row.run}: {row.first:.1%} on {task}, {row.shifted:.1%} shifted, effective robustness "
            f"{100 * row.effective:+.1f} points{' (in the line)' if row.baseline else ''}"
        )
    return [asdict(row) for row in rows]


def _conclude(
    console: Console, summary: EvaluateSummary, page: Path, encoder: Encoder | None, force: bool
) -> dict[str, object]:
    from rag_clip.report.evaluation import write_evaluation

    results = summary.results
    candidates = {result.task: result.settings.candidates for result in results if result.settings.candidates}
    for task, facts in candidates.items():
        left_out = f"{facts.left_out} left out as names of classes of {task}"
        console.say(f"{counted(facts.names, 'name')} from {facts.place}, {left_out}")
    for result in {result.task: result for result in results if result.counts.failed}.values():
        row, reason = next(iter(result.counts.reasons.items()))
        failed = counted(result.counts.failed, "image")
        console.say(f"{failed} of {result.task} cannot be used, such as row {row}: {reason}")
    for name in dict.fromkeys(result.run for result in results):
        scores = [result.main.value for result in results if result.run == name]
        if len(scores) > 1:
            console.say(f"{name}: mean of {len(scores)} tasks {sum(scores) / len(scores):.1%}")
    if len(results) > MOST_LINES:
        rank_runs(console, results)
    _explain_tiers(console, results)
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


def rank_runs(console: Console, results: Sequence[Result]) -> None:
    """Say the best runs of each task, and its worst."""
    for task in dict.fromkeys(result.task for result in results):
        runs = sorted((each for each in results if each.task == task), key=lambda each: -each.main.value)
        shown = runs if len(runs) <= RANKED + 1 else [*runs[:RANKED], runs[-1]]
        places = [*range(1, len(shown)), len(runs)]
        console.say(f"{task}: the best of {counted(len(runs), 'run')}, and the last")
        for place, ranked in zip(places, shown, strict=True):
            main = ranked.main
            metric = METRICS.get(main.metric, main.metric)
            console.say(f"  {place}. {ranked.run} [{ranked.tier}]  {metric} {main.value:.1%}")


def _explain_tiers(console: Console, results: Sequence[Result]) -> None:
    from rag_clip.evaluation.tiers import describe_tier

    for tier in sorted({result.tier for result in results}):
        console.say(f"[{tier}] used {describe_tier(tier)}")


def _compare(console: Console, paths: list[Path], page: Path | None, force: bool) -> object:
    from rag_clip.evaluation.compare import compare_results
    from rag_clip.evaluation.results import read_results, runs_folder
    from rag_clip.files.outputs import check_outputs
    from rag_clip.report.evaluation import write_comparison

    if len(paths) != 2:
        raise ValueError(f"--compare needs two results files, before and after; found {len(paths)}")
    check_outputs([(page, "evaluate")], inputs=[paths, map(runs_folder, paths)], force=force)
    found = compare_results(*(read_results(path) for path in paths))
    for pair in found.pairs:
        console.table(pair.name, _cells(pair))
        if change := pair.difference:
            console.say(
                f"paired: {change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}], "
                f"{counted(change.gained, 'image')} gained, {change.lost} lost, "
                f"probability {change.probability:.2g} if neither were better\n"
            )
    _explain_tiers(console, [side for pair in found.pairs for side in (pair.before, pair.after)])
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
        raise ValueError(f"{counted(len(problems), 'problem')} in {counted(count, 'task')}; fix them and check again")
    console.say(f"{counted(count, 'task')} can be evaluated")
    return {"tasks": count, "problems": []}


def _cells(pair: Pair) -> dict[str, dict[str, str]]:
    cells = {}
    for metric, title in METRICS.items():
        before, after = pair.before.get(metric), pair.after.get(metric)
        if before and after:
            change = f"{after.value - before.value:+.1%}"
            cells[title] = {"before": f"{before.value:.1%}", "after": f"{after.value:.1%}", "change": change}
    return cells


def _line(result: Result) -> str:
    """Return a run as one line: task, run, tier, and its main numbers in percent with their intervals."""
    cells = [f"{result.task} | {result.run} [{result.tier}]"]
    for metric, title in METRICS.items():
        if measure := result.get(metric):
            bounds = " [{:.1%}, {:.1%}]".format(*measure.bounds) if measure.bounds else ""
            cells.append(f"{title} {measure.value:.1%}{bounds}")
    return "  ".join(cells)


def _facts(result: Result) -> dict[str, object]:
    whole = {each.metric: [each.value, each.low, each.high] for each in result.measures if not each.item}
    return {"task": result.task, "run": result.run, "tier": result.tier, "key": result.key, "measures": whole}
