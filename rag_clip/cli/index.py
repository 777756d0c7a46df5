"""The verbs under `rag-clip index`: build an index in one step or two, inspect it, check it, copy it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.run import COLUMNS, SHOWN, EncoderOptions, Force, Ray, Seed, Shown, run, spread, toml_files
from rag_clip.display import counted

if TYPE_CHECKING:
    from rag_clip.captions.sources.columns import Columns
    from rag_clip.captions.sources.finding import SourceFile
    from rag_clip.corpus.cleaning import CleaningSettings
    from rag_clip.pipelines.plan import IndexPlan

LOAD_SECONDS = 1.1e-4  # per caption; measured on 57,368 of width 128 into a folder, on two cores

Captions = Annotated[
    list[str],
    Parameter(negative=(), help="Parquet, CSV, TSV, JSONL, JSON, text or webdataset files, folders, globs or URLs."),
]
Index = Annotated[str, Parameter(help="A folder, or http://HOST:6333[/COLLECTION] of a Qdrant server.")]
TextColumn = Annotated[
    str | None,
    Parameter(group=COLUMNS, help="The column of the captions; found by default. Dots name nested columns."),
]
SourceColumn = Annotated[
    str | None,
    Parameter(group=COLUMNS, help="The column of the source; found by default, otherwise the file's name is used."),
]
Cleaning = Annotated[
    str, Parameter(help="default, align, wukong or none (see index/cleaning.toml), or your own FILE.toml[:PRESET].")
]
Schema = Annotated[Path | None, Parameter(help="A TOML file like index/captions.toml.")]
Retry = Annotated[bool, Parameter(negative=(), help="Try again what could not be read in an earlier run.")]


def build(
    captions: Captions,
    /,
    *,
    index: Index,
    encoder: EncoderOptions,
    text_column: TextColumn = None,
    source_column: SourceColumn = None,
    cleaning: Cleaning = "default",
    schema: Schema = None,
    shards: Annotated[Path | None, Parameter(help="Folder of the embedded captions; default INDEX.shards.")] = None,
    keep_shards: Annotated[
        bool, Parameter(help="Keep the shards; without them, another schema needs embedding again.")
    ] = True,
    retry_failed: Retry = False,
    ray: Ray = None,
    force: Force = False,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="Show ten rows and what would be dropped; write nothing.")
    ] = False,
    shown: Shown = SHOWN,
) -> int:
    """Clean captions, embed them, and write them to an index; run again to continue, or to add captions."""

    def job(console: Console) -> object:
        from rag_clip.captions.shards import ShardFolder
        from rag_clip.captions.sources.columns import Columns
        from rag_clip.files.outputs import check_outputs
        from rag_clip.pipelines.captions import build_index, default_shards
        from rag_clip.pipelines.running import Running
        from rag_clip.store import load_schema

        columns, settings = Columns(text=text_column, source=source_column), load_named_cleaning(cleaning)
        described = load_schema(schema) if schema else None
        if dry_run:
            return _show_preview(console, captions, columns=columns, cleaning=settings, index=index)
        folder = shards or default_shards(index, described or load_schema())
        read = [captions, schema, toml_files(cleaning), encoder.files]
        check_outputs([(index, "index"), (folder, "shards")], inputs=read, force=force)
        one, elsewhere = spread(encoder, ray)
        console.plan(("embed", 0), ("load", LOAD_SECONDS))
        summary = build_index(
            captions,
            index=index,
            encoder=one.load(console),
            columns=columns,
            cleaning=settings,
            schema=described,
            shards=ShardFolder(shards, retry_failed=retry_failed, keep=keep_shards),
            running=Running(force=force, report=console.report, elsewhere=elsewhere),
        )
        console.say(str(summary))
        _say_lost(console, summary.dropped, summary.failures)
        console.stages(summary.seconds)
        return summary

    return run(job, shown)


def embed(
    captions: Captions,
    /,
    *,
    shards: Annotated[Path, Parameter(help="Folder of the embedded captions.")],
    encoder: EncoderOptions,
    text_column: TextColumn = None,
    source_column: SourceColumn = None,
    cleaning: Cleaning = "default",
    part: Annotated[str, Parameter(help="I/N: part I of N, from 1, to share the work among N machines.")] = "1/1",
    retry_failed: Retry = False,
    ray: Ray = None,
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Do the first half of build: embed captions into shards, on one machine or as a part on one of many."""

    def job(console: Console) -> object:
        from rag_clip.captions.shards import ShardFolder
        from rag_clip.captions.sources.columns import Columns
        from rag_clip.files.outputs import check_outputs
        from rag_clip.pipelines.embed import embed_captions
        from rag_clip.pipelines.running import Running

        check_outputs([(shards, "shards")], inputs=[captions, toml_files(cleaning), encoder.files], force=force)
        one, elsewhere = spread(encoder, ray)
        summary = embed_captions(
            captions,
            shards=ShardFolder(shards, part=_parse_part(part), retry_failed=retry_failed),
            encoder=one.load(console),
            columns=Columns(text=text_column, source=source_column),
            cleaning=load_named_cleaning(cleaning),
            running=Running(force=force, report=console.report, elsewhere=elsewhere),
        )
        console.say(str(summary))
        _say_lost(console, summary.dropped, summary.failures)
        console.stages(summary.seconds)
        return summary

    return run(job, shown)


def load(
    shards: Annotated[Path, Parameter(help="The folder of `index embed`, or those of several machines in one folder.")],
    /,
    *,
    index: Index,
    schema: Schema = None,
    shown: Shown = SHOWN,
) -> int:
    """Do the second half of build: write shards to an index; for another schema, run only this."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.pipelines.load import load_shards
        from rag_clip.store import load_schema

        check_outputs([(index, "index")], inputs=[shards, schema])
        chosen = load_schema(schema) if schema else None
        summary = load_shards(shards, index=index, schema=chosen, report=console.report)
        console.say(str(summary))
        _say_lost(console, {}, summary.failures)
        console.stages(summary.seconds)
        return summary

    return run(job, shown)


def info(index: Index, /, *, shown: Shown = SHOWN) -> int:
    """Show what is in an index, which encoder it was built with, and whether it is ready."""

    def job(console: Console) -> object:
        from rag_clip.store import open_store

        with open_store(index) as store:
            facts = store.info()
        for line in _describe(facts):
            console.say(line)
        return facts

    return run(job, shown)


def check(
    index: Index,
    /,
    *,
    queries: Annotated[int, Parameter(help="Number of stored vectors to search with.")] = 200,
    k: Annotated[int, Parameter(help="Number of nearest neighbours to compare for each.")] = 100,
    seed: Seed = 0,
    search: Annotated[Literal["auto", "hnsw"], Parameter(help="How the index is searched.")] = "auto",
    shown: Shown = SHOWN,
) -> int:
    """Measure recall@k of the normal search against exact search, and record it in the index."""

    def job(console: Console) -> object:
        from rag_clip.store import check_index, open_store

        with open_store(index) as store:
            found = check_index(store, queries=queries, k=k, seed=seed, index=search, report=console.report)
        console.say(
            f"recall@{found.k} {found.recall:.4f} over {found.queries} queries (95 % of them reach "
            f"{found.recall_p05:.4f}), served {found.served}: "
            f"p50 {1000 * found.served_p50:.1f} ms, p95 {1000 * found.served_p95:.1f} ms"
        )
        return found

    return run(job, shown)


def copy(source: Index, target: Index, /, *, schema: Schema = None, shown: Shown = SHOWN) -> int:
    """Copy an index to a folder or to a server, and verify the copy."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.store import copy_store, load_schema, open_store

        check_outputs([(target, "index")], inputs=[source, schema])
        with open_store(source) as store:
            chosen = load_schema(schema) if schema else None
            copied = copy_store(store, target, schema=chosen, report=console.report)
        rows = counted(copied.count, "row")
        console.say(f"{rows} in {copied.target}, {copied.verified} of them compared with {copied.source}")
        return copied

    return run(job, shown)


def plan(
    *,
    captions: Annotated[float | None, Parameter(help="Number of captions, such as 1e8.")] = None,
    images: Annotated[float | None, Parameter(help="Number of images with a caption each, instead.")] = None,
    model: Annotated[str, Parameter(help="demo, NAME:TAG, hf-hub:OWNER/NAME, local-dir:FOLDER; loads no weights.")],
    schema: Schema = None,
    vectors: Annotated[Literal["float32", "float16"] | None, Parameter(help="Instead of the schema's numbers.")] = None,
    copies: Annotated[
        Literal["none", "int8", "turbo4"] | None, Parameter(help="Compressed copies, instead of the schema's.")
    ] = None,
    memory: Annotated[float, Parameter(help="Memory of a machine in GB; an index may take three quarters.")] = 64.0,
    hours: Annotated[float, Parameter(help="Hours in which everything is to be encoded.")] = 24.0,
    caption_rate: Annotated[
        float | None, Parameter(help="Captions that one device encodes a second; by default extrapolated from a CPU.")
    ] = None,
    image_rate: Annotated[float | None, Parameter(help="The same of images, with decoding.")] = None,
    shown: Shown = SHOWN,
) -> int:
    """Show what an index would take, in a folder and on a server: disk, memory, hours and machines."""

    def job(console: Console) -> object:
        from rag_clip.pipelines.plan import Machines, plan_index, with_numbers
        from rag_clip.store import load_schema

        if (captions is None) == (images is None):
            raise ValueError("give the number of --captions, or of --images with a caption each")
        of_images, rows = images is not None, captions if images is None else images
        if rows is None or not rows < 1e15 or rows != int(rows):
            raise ValueError(f"the number of rows is {rows}; give a whole number, such as 1e8")
        if of_images and schema is None:
            from rag_clip.pipelines.images import load_image_schema

            described = load_image_schema()
        else:
            described = load_schema(schema)
        made = plan_index(
            int(rows),
            model=model,
            images=of_images,
            schema=with_numbers(described, vectors=vectors, copies=copies),
            machines=Machines(memory, hours, caption_rate, image_rate),
        )
        _show_plan(console, made, hours, memory)
        return made

    return run(job, shown)


def _show_plan(console: Console, made: IndexPlan, hours: float, memory: float) -> None:
    gigabyte = 1e9
    console.say(str(made))
    for title, parts in (("disk", made.disk), ("memory", made.memory)):
        listed = ", ".join(f"{name} {size / gigabyte:,.2f} GB" for name, size in parts.items() if size)
        console.say(f"{title}: {listed}")
    console.say(", ".join(f"{name} {each:,.1f} hours" for name, each in made.hours.items()))
    encoders = f"{counted(made.devices, 'device')} encode within {hours:g} hours"
    fits = "fits" if made.folder_fits else "does not fit"
    console.say(f"{encoders}; writing and graph run in one engine, or on all nodes of a server at once")
    console.say(f"in a folder: searched fast it {fits} in one machine of {memory:g} GB")
    console.say(f"on a server: {counted(made.nodes, 'node')} of {memory:g} GB")
    for line in made.measured:
        console.say(f"measured: {line}")
    for line in made.extrapolated:
        console.say(f"extrapolated: {line}")


def snapshot(
    index: Index,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The file to write; an existing one is refused.")],
    shown: Shown = SHOWN,
) -> int:
    """Write every row of an index and its card to one file, from which either engine restores it."""

    def job(console: Console) -> object:
        from rag_clip.store import open_store
        from rag_clip.store.snapshots import check_free, snapshot_index

        check_free(output)
        with open_store(index) as store:
            made = snapshot_index(store, output, report=console.report)
        console.say(f"{counted(made.count, 'row')} of {made.index} in {made.file}")
        return made

    return run(job, shown)


def restore(
    snapshot: Annotated[Path, Parameter(help="A file of `index snapshot`.")],
    /,
    *,
    index: Index,
    schema: Schema = None,
    shown: Shown = SHOWN,
) -> int:
    """Make an index of a snapshot, in a folder or on a server; run it again to continue one that was cut short."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.store import load_schema
        from rag_clip.store.snapshots import restore_index

        check_outputs([(index, "index")], inputs=[snapshot, schema])
        chosen = load_schema(schema) if schema else None
        made = restore_index(snapshot, index, schema=chosen, report=console.report)
        console.say(f"{counted(made.count, 'row')} of {made.file} in {made.index}")
        return made

    return run(job, shown)


def load_named_cleaning(name: str) -> Any:
    """Load cleaning settings: a preset by name, or FILE.toml[:PRESET]."""
    from rag_clip.corpus.cleaning import load_cleaning

    path, _, preset = name.rpartition(":") if ".toml:" in name else (name, "", "default")
    return load_cleaning(preset, path) if path.endswith(".toml") else load_cleaning(name)


def _parse_part(part: str) -> tuple[int, int]:
    number, _, count = part.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"part {part!r} is not I/N with 1 <= I <= N, such as 2/8")
    return int(number) - 1, int(count)


def say_dropped(console: Console, dropped: Mapping[str, int]) -> None:
    """Print the number of dropped captions by reason."""
    for reason, count in dropped.items():
        console.say(f"  dropped, {reason}: {count}")


def _say_lost(console: Console, dropped: Mapping[str, int], failures: tuple[str, ...]) -> None:
    say_dropped(console, dropped)
    for failure in failures:
        console.say(f"  could not be read to its end: {failure}")


def _describe(facts: Mapping[str, Any]) -> list[str]:
    """Return the main facts of an index as lines; --json prints all."""
    card, memory, checked = facts["card"], facts["memory"], facts["check"]
    encoder, corpus = card["encoder"], card["notes"].get("corpus")
    size = "" if facts["bytes"] is None else f", {facts['bytes'] / 1e6:.1f} MB on disk"
    lines = [
        f"{counted(facts['count'], 'caption')} in {facts['location']}: {facts['status']}",
        f"engine: {facts['engine']}{size}, {memory['resident'] / 1e6:.1f} MB to hold in memory",
        f"encoder: {encoder['model']} ({encoder['pretrained'] or 'no tag'}, weights {encoder['weights'][:12]}), "
        f"width {card['dim']}, created {card['created']}",
    ]
    if corpus:
        lost = "".join(f", {reason} {count}" for reason, count in corpus["dropped"].items())
        repeated = f", repeated {corpus['repeated']}" if "repeated" in corpus else ""
        lines.append(f"funnel: {corpus['read']} read{lost}{repeated}, {corpus['kept']} kept")
    lines += [f"optimisers: {line}" for line in facts.get("optimisers") or ()]
    if checked:
        stale = "" if checked["current"] else ", before the last change"
        lines.append(f"last check: recall@{checked['k']} {checked['recall']:.4f}, served {checked['served']}{stale}")
    else:
        lines.append(f"last check: none; measure recall with: rag-clip index check {facts['location']}")
    return lines


def _show_preview(
    console: Console, captions: Sequence[str], *, columns: Columns, cleaning: CleaningSettings, index: str
) -> dict[str, Any]:
    """Show the first rows of a build; raises the errors that the build would raise for paths, columns and the index."""
    from rag_clip.captions.sources.finding import find_sources
    from rag_clip.captions.sources.preview import preview
    from rag_clip.corpus.cleaning import row_rules

    _check_index(index, cleaning)
    sources = find_sources(captions, columns=columns)
    seen = preview(sources, clean=row_rules(cleaning))
    for file in seen.files:
        console.say(_describe_file(file))
    if len(seen.files) < len(sources):
        console.say(f"and {counted(len(sources) - len(seen.files), 'file')} not opened for this preview")
    for row in seen.rows.to_pylist():
        fate = f"dropped, {row['dropped']}" if row["dropped"] else row["cleaned"]
        console.say(f"  row {row['row']}: {row['text']!r} -> {fate}")
    if cleaning.corpus_rules:
        console.say(f"not shown, because they need counts of the whole corpus: {', '.join(cleaning.corpus_rules)}")
    dropped = dict(seen.dropped) or "none"
    console.say(f"of the first {counted(seen.read, 'row')}, {seen.kept} would be kept; dropped: {dropped}")
    for damage in seen.damaged:
        console.say(f"  {damage}")
    return {
        "files": len(sources),
        "read": seen.read,
        "kept": seen.kept,
        "dropped": dict(seen.dropped),
        "not_shown": list(cleaning.corpus_rules),
        "rows": seen.rows.to_pylist(),
    }


def _check_index(index: str, cleaning: CleaningSettings) -> None:
    """Raise ValueError if the index exists and has other cleaning settings."""
    from rag_clip.captions.filter import check_cleaning
    from rag_clip.store import open_store

    try:
        with open_store(index) as store:
            check_cleaning(store, cleaning)
    except FileNotFoundError:
        return


def _describe_file(file: SourceFile) -> str:
    columns = {"source": f"{file.name!r} for all rows"} | {
        role: f"column {name!r}" for role, name in asdict(file.columns).items() if name and role != "image"
    }
    named = "; ".join(f"{role}: {columns[role]}" for role in asdict(file.columns) if role in columns)
    others = f"; not used: {', '.join(file.candidates)}" if file.candidates else ""
    return f"{file.address}: {file.format}; {named}{others}"
