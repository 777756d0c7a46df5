"""What `index build --dry-run` shows: the columns, some rows, and what would be dropped; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rag_clip.cli.console import Console

if TYPE_CHECKING:
    from rag_clip.captions.sources.columns import Columns
    from rag_clip.captions.sources.finding import SourceFile
    from rag_clip.corpus.cleaning import CleaningSettings


def show_preview(
    console: Console, captions: Sequence[str], *, columns: Columns, cleaning: CleaningSettings, index: str
) -> dict[str, Any]:
    """Show what a build would begin with; raises what it would raise for paths, columns and an index in the way."""
    from rag_clip.captions.sources.finding import find_sources
    from rag_clip.captions.sources.preview import preview
    from rag_clip.corpus.cleaning import row_rules

    _check_index(index, cleaning)
    sources = find_sources(captions, columns=columns)
    seen = preview(sources, clean=row_rules(cleaning))
    for file in seen.files:
        console.say(_describe(file))
    if len(seen.files) < len(sources):
        console.say(f"and {len(sources) - len(seen.files)} files that were not looked into")
    for row in seen.rows.to_pylist():
        fate = f"dropped, {row['dropped']}" if row["dropped"] else row["cleaned"]
        console.say(f"  row {row['row']}: {row['text']!r} -> {fate}")
    if cleaning.corpus_rules:
        console.say(f"not shown, for they count the whole corpus first: {', '.join(cleaning.corpus_rules)}")
    console.say(f"of the first {seen.read} rows {seen.kept} would be kept; dropped: {dict(seen.dropped) or 'none'}")
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
    """Refuse an index that was cleaned in another way; where there is none, one would be made."""
    from rag_clip.captions.recorded import check_cleaning
    from rag_clip.store import open_store

    try:
        with open_store(index) as store:
            check_cleaning(store, cleaning)
    except FileNotFoundError:
        return


def _describe(file: SourceFile) -> str:
    columns = {"source": f"{file.name!r} for all rows"} | {
        role: f"column {name!r}" for role, name in asdict(file.columns).items() if name and role != "image"
    }
    named = "; ".join(f"{role}: {columns[role]}" for role in asdict(file.columns) if role in columns)
    others = f"; not taken: {', '.join(file.candidates)}" if file.candidates else ""
    return f"{file.address}: {file.format}; {named}{others}"
