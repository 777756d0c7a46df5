"""The verb `rag-clip search`: search an index by a text, an image, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.index import Index
from rag_clip.cli.recorded_encoder import RECORDED, RecordedEncoder, find_encoder
from rag_clip.cli.run import SHOWN, Shown, run

if TYPE_CHECKING:
    from rag_clip.store import CollectionSchema


def search_index(
    index: Index,
    /,
    *,
    text: Annotated[list[str] | None, Parameter(negative=(), help="What to look for; each text is a search.")] = None,
    image: Annotated[
        str | None, Parameter(help="An image file or its URL; with texts, each is looked for together with it.")
    ] = None,
    weight: Annotated[
        float,
        Parameter(help="Weight of the text, if the image has 1; negative finds the image without what the text says."),
    ] = 2.0,
    over: Annotated[
        Literal["text", "image"] | None,
        Parameter(help="Search vectors of captions or of images; the default depends on the index."),
    ] = None,
    mode: Annotated[
        Literal["dense", "lexical", "hybrid"] | None,
        Parameter(help="By vectors, by words, or both; default: dense with --model or an image, otherwise lexical."),
    ] = None,
    limit: Annotated[int, Parameter(help="Maximum number of results per search.")] = 10,
    where: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            help="A filter, FIELD=VALUE (repeat it to accept several values) or FIELD=LEAST:GREATEST for numbers.",
        ),
    ] = None,
    encoder: RecordedEncoder = RECORDED,
    shown: Shown = SHOWN,
) -> int:
    """Search an index by text, image or both, over captions or images."""

    def job(console: Console) -> object:
        from rag_clip.images.items import read_image
        from rag_clip.pipelines.search import needs_encoder, search
        from rag_clip.store import open_store
        from rag_clip.store.queries import Query

        data = read_image(image) if image else None
        queries = [Query(words, data, weight) for words in text or [""]]
        with open_store(index) as store:
            filters = _parse_where(where or (), store.card.schema)
            needed = needs_encoder(queries, mode, over) or (encoder.model and mode is None)
            recorded = [(f"the index {index}", asdict(store.card.encoder))]
            loaded = find_encoder(encoder, recorded).load(console) if needed else None
            found = search(store, queries, encoder=loaded, mode=mode, over=over, limit=limit, where=filters)
        facts = [
            {"text": answer.query.text, "image": image, "weight": weight, "hits": answer.hits}
            for answer in found.answers
        ]
        for answer in facts:
            _show(console, answer)
        return {"index": index, "queries": facts}

    return run(job, shown)


def _parse_where(conditions: Sequence[str], schema: CollectionSchema) -> dict[str, Any]:
    """Parse FIELD=VALUE and FIELD=LEAST:GREATEST, where a bound may be missing; a single number is both bounds."""
    filters: dict[str, Any] = {}
    for condition in conditions:
        field, equals, value = condition.partition("=")
        if not equals:
            raise ValueError(f"condition {condition!r} is not FIELD=VALUE, such as source=web or width=300:640")
        if field not in schema.payload or schema.payload[field].kind not in ("integer", "float"):
            filters.setdefault(field, []).append(value)
            continue
        if field in filters:
            raise ValueError(f"{field} has two ranges; give one, as in {field}=LEAST:GREATEST")
        least, colon, greatest = value.partition(":")
        filters[field] = (_number(least, condition), _number(greatest if colon else least, condition))
    return filters


def _number(text: str, condition: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise ValueError(f"condition {condition!r} is not FIELD=LEAST:GREATEST with numbers") from None


def _show(console: Console, answer: Mapping[str, Any]) -> None:
    query = [repr(answer["text"])] if answer["text"] else []
    console.say(" and ".join([str(answer["image"]), *query] if answer["image"] else query))
    rows = answer["hits"]
    if not rows:
        console.say("  nothing found")
        return
    widest = max(len("source"), *(len(row["source"]) for row in rows))
    console.say(f"  rank   score  {'source':{widest}}  text")
    for rank, row in enumerate(rows, start=1):
        more = "".join(f"  {name}={row[name]}" for name in row if name not in ("id", "score", "text", "source"))
        console.say(f"  {rank:>4}  {row['score']:6.4f}  {row['source']:{widest}}  {row['text']}{more}")
