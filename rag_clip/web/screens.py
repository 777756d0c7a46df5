"""The pages: index, prompts, predictions, why, compare. They work without scripts, and every view is a URL."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment

from rag_clip.display import counted
from rag_clip.evaluation.compare import compare_results
from rag_clip.evaluation.results import read_results
from rag_clip.files.prompts import write_prompts
from rag_clip.report.page import templates_of
from rag_clip.web.edits import class_number, corrections_path, edited, read_corrected
from rag_clip.web.rest import Shared, correct_rows, prompts_for
from rag_clip.web.rows import Filter, counts_of, image_of, predictions_of, thumbnail
from rag_clip.web.state import State, named, without_texts

router = APIRouter()
STATIC = {"app.css": "text/css", "app.js": "text/javascript"}
ON_A_PAGE, CLASSES_ON_A_PAGE, PREVIEWED, LISTED_CLASSES = 48, 200, 20, 1500


@cache
def _templates() -> Environment:
    environment = templates_of("rag_clip.web")
    environment.globals["url"] = url
    environment.filters["counted"] = counted
    return environment


def url(path: str, **values: object) -> str:
    """Return an address of this service with a query of the values that are not empty."""
    given = {
        name: "on" if value is True else value
        for name, value in values.items()
        if value is not None and value is not False and value not in ("", [])
    }
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def _page(template: str, *, status: int = 200, **values: Any) -> Response:
    content = _templates().get_template(template).render(**values)
    return HTMLResponse(content, status, headers={"cache-control": "no-store"})


def error_page(request: Request, status: int, message: str) -> Response:
    """Return a page that says what is wrong."""
    return _page("error.html", status=status, title="This did not work", here="", message=message, status_code=status)


def _table(rows: Sequence[Mapping[str, Any]], kind: str) -> Response:
    """Return rows as JSON or CSV."""
    if kind == "json":
        return Response(json.dumps(list(rows), ensure_ascii=False, default=str), media_type="application/json")
    stream = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, columns)
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return Response(stream.getvalue(), media_type="text/csv; charset=utf-8")


def _cell(value: object) -> object:
    """Return a value of a CSV file so that no spreadsheet takes a caption for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


@router.get("/static/{name}")
def static_file(name: str) -> Response:
    """Return a style sheet, after that of the reports, or a script."""
    if name not in STATIC:
        return Response(status_code=404)
    content = (resources.files("rag_clip.web") / "static" / name).read_bytes()
    if name.endswith(".css"):
        content = (resources.files("rag_clip.report") / "templates" / "base.css").read_bytes() + content
    return Response(content, media_type=STATIC[name], headers={"cache-control": "max-age=3600"})


@router.get("/")
def home(state: Shared) -> Response:
    """List what is in the folder, by what it is."""
    kinds: dict[str, list[Any]] = {}
    for entry in state.served.entries():
        kinds.setdefault(entry.kind, []).append(entry)
    return _page(
        "home.html",
        title=state.served.root.name or "/",
        here="/",
        kinds=kinds,
        index=state.index,
        model=state.worker.model,
    )


@router.get("/image")
def image(request: Request, state: Shared, file: str = "", row: int = 0, upload: str = "", side: int = 256) -> Response:
    """Return the picture in a row of a file as a JPEG of at most `side` pixels."""
    if upload:
        tag = f'"{upload}-{side}"'
    else:
        path = state.served.find(file)
        tag = f'"{path.stat().st_mtime_ns:x}-{row}-{side}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    if not 16 <= side <= 1024:
        raise ValueError(f"side is {side}; give 16 to 1024 pixels")
    data = state.upload(upload) if upload else image_of(path, row, root=state.served.root)
    return Response(
        thumbnail(data, side), media_type="image/jpeg", headers={"etag": tag, "cache-control": "private, max-age=3600"}
    )


@router.post("/upload")
def upload_picture(
    picture: UploadFile, state: Shared, to: Annotated[str, Form()], query: Annotated[str, Form()] = ""
) -> Response:
    """Keep an uploaded picture, and go on to the page that asked for it."""
    if to not in ("/why", "/index"):
        raise ValueError(f"a picture cannot be uploaded for {to!r}")
    kept = state.keep(picture.file.read())
    return RedirectResponse(f"{to}?{query + '&' if query else ''}{urlencode({'upload': kept})}", 303)


@dataclass(frozen=True, slots=True)
class Picture:
    """The picture that a page is asked about: an uploaded one, or the one in a row of a file."""

    upload: str = ""
    file: str = ""
    row: int | None = None


@router.get("/index")
def index_page(
    state: Shared,
    picture: Annotated[Picture, Depends()],
    name: str = "",
    text: str = "",
    minus: str = "",
    source: str = "",
    start: int = 0,
    format: str = "",
) -> Response:
    """Search an index by words or a picture, without what some words say."""
    names = state.indexes()
    name = name or (names[0] if names else "")
    hits: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    if name:
        store = state.store(name)
        facts = {"captions": store.count(), "model": store.card.encoder.spec, **_health(store.card.notes)}
        given = state.picture(upload=picture.upload, file=picture.file, row=picture.row)
        searched = bool(text) or given is not None
        hits = state.search(name, text=text, minus=minus, image=given, offset=start) if searched else state.sample(name)
    sources: dict[str, int] = {}
    for hit in hits:
        sources[hit["source"]] = sources.get(hit["source"], 0) + 1
    hits = [hit for hit in hits if not source or hit["source"] == source]
    if format in ("json", "csv"):
        return _table(hits, format)
    for hit in hits:
        hit["picture"] = state.picture_of(hit, name)
    asked = {"name": name, "text": text, "minus": minus, **asdict(picture), "source": source}
    return _page(
        "index.html",
        title=f"Index {name}" if name else "Index",
        here="/index",
        names=names,
        asked=asked,
        hits=hits,
        facts=facts,
        sources=sources,
        start=start,
        query=urlencode({key: value for key, value in asked.items() if value and key in ("name", "text", "minus")}),
    )


def _health(notes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        note: ", ".join(
            f"{key} {str(value)[:10] if key == 'date' else value}"
            for key, value in facts.items()
            if isinstance(value, str | int | float)
        )[:200]
        for note, facts in notes.items()
    }


@router.get("/prompts")
def prompts_page(
    state: Shared, file: str = "", label: str = "", find: str = "", images: str = "", before: str = "", format: str = ""
) -> Response:
    """Show what speaks for each class, and let a person change it."""
    files = state.served.of_kind("prompts")
    file = file or (files[0] if files else "")
    if not file:
        return _page("empty.html", title="Prompts", here="/prompts", what="prompts", verb="enhance")
    prompts = state.prompts.read(state.served.find(file))
    names = [name for name in prompts.labels.names if find.casefold() in name.casefold()]
    label = label or (names[0] if names else prompts.labels.names[0])
    row = class_number(prompts.labels, label)
    texts = [
        {"place": place, "text": each.text, "weight": each.weight, "role": each.role, "source": each.source,
         "evidence": each.evidence, "score": each.score}
        for place, each in enumerate(prompts.texts[row])
    ]  # fmt: skip
    if format in ("json", "csv"):
        return _table(texts, format)
    found = state.explain(prompts, None, label=label).label
    shares = {} if found is None else {share.prompt: share.share for share in found.texts}
    for each, prompt in zip(texts, prompts.texts[row], strict=True):
        each["share"] = shares.get(prompt, 0.0)
    preview = _preview(state, file, images, before) if images else []
    return _page(
        "prompts.html",
        title=f"Prompts {file}",
        here="/prompts",
        file=file,
        files=files,
        label=label,
        names=names[:CLASSES_ON_A_PAGE],
        more=max(0, len(names) - CLASSES_ON_A_PAGE),
        find=find,
        texts=texts,
        found=found,
        images=images,
        image_files=state.served.of_kind("predictions", "table", "support"),
        before=before,
        preview=preview,
    )


def _preview(state: State, file: str, images: str, before: str) -> list[dict[str, Any]]:
    """Classify up to 20 pictures by prompts, and by those before the edit."""
    path = state.served.find(images)
    shown = []
    for row in range(PREVIEWED):
        try:
            shown.append((row, image_of(path, row, root=state.served.root)))
        except ValueError:
            break
    if not shown:
        return []
    data = [each for _, each in shown]
    now = state.classify(file, data, top_k=1)
    then = state.classify(before, data, top_k=1) if before else now
    return [
        {"row": row, "now": new[0], "then": old[0], "changed": new[0]["label"] != old[0]["label"]}
        for (row, _), new, old in zip(shown, now, then, strict=True)
    ]


@router.post("/prompts/edit")
async def edit_prompts(request: Request, state: Shared) -> Response:
    """Write prompts with texts removed or reweighted to a new file, and show it."""
    form = await request.form()
    file, label = str(form.get("file", "")), str(form.get("label", ""))
    path = state.served.find(file)
    prompts = state.prompts.read(path)
    removed = {int(str(place)): 0.0 for place in form.getlist("remove")}
    weights = {
        int(name.removeprefix("weight-")): float(str(value))
        for name, value in form.multi_items()
        if name.startswith("weight-") and str(value).strip()
    }
    group = prompts.texts[class_number(prompts.labels, label)]
    changed = {
        place: weight
        for place, weight in weights.items()
        if place < len(group) and f"{weight:.6g}" != f"{group[place].weight:.6g}"
    }
    if not changed and not removed:
        raise ValueError("nothing was changed; remove a text, or give another weight")
    facts = {"from": file, "label": label, "removed": sorted(removed), "weights": changed | removed}
    made = named(edited(prompts, label, changed | removed), changed=facts)
    new = state.served.new(f"{path.with_suffix('').relative_to(state.served.root).as_posix()}-edited", path.suffix)
    write_prompts(made, new)
    images = str(form.get("images", ""))
    return RedirectResponse(url("/prompts", file=state.served.name(new), label=label, before=file, images=images), 303)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The filters of the page of predictions, as its form sends them."""

    label: str = ""
    below: str = ""
    changed: str = ""
    unlabelled: str = ""
    failed: str = ""

    @property
    def filter(self) -> Filter:
        """Return the filter; raises ValueError for a score that is no number."""
        return Filter(self.label, _number(self.below), bool(self.changed), bool(self.unlabelled), bool(self.failed))


@router.get("/predictions")
def predictions_page(
    state: Shared,
    chosen: Annotated[Chosen, Depends()],
    file: str = "",
    start: int = 0,
    format: str = "",
) -> Response:
    """Show pictures with what was predicted for them, and let a person accept or correct it."""
    files = state.served.of_kind("predictions")
    file = file or (files[0] if files else "")
    if not file:
        return _page("empty.html", title="Predictions", here="/predictions", what="predictions", verb="classify")
    path = state.served.find(file)
    opened = predictions_of(path)
    found = opened.page(start=start, limit=ON_A_PAGE, only=chosen.filter)
    if format in ("json", "csv"):
        return _table(found.rows, format)
    counts = counts_of(path)
    corrected = read_corrected(path)
    asked = {"file": file, **asdict(chosen)}
    labels = list(counts)[:LISTED_CLASSES]
    return _page(
        "predictions.html",
        title=f"Predictions {file}",
        here="/predictions",
        files=files,
        asked=asked,
        found=found,
        counts=counts,
        labels=labels,
        names=_class_names(state, path, labels),
        columns=opened.columns,
        corrected=corrected,
        corrections=state.served.name(corrections_path(path)),
        start=start,
    )


def _number(below: str) -> float:
    try:
        return float(below) if below else 1.01
    except ValueError:
        raise ValueError(f"{below!r} is not a score; give a number from 0 to 1") from None


def _class_names(state: State, path: Path, labels: list[str]) -> list[str]:
    try:
        names = list(prompts_for(state, path).labels.names)
    except (ValueError, OSError, RuntimeError):
        return labels
    return names if len(names) <= LISTED_CLASSES else labels


@router.post("/predictions/correct")
def correct_prediction(
    state: Shared, file: Annotated[str, Form()], row: Annotated[int, Form()], label: Annotated[str, Form()],
    back: Annotated[str, Form()] = "",
) -> Response:  # fmt: skip
    """Keep the right label of one row."""
    correct_rows(state, state.served.find(file), {row: label})
    target = back if back.startswith("/predictions?") else url("/predictions", file=file)
    return RedirectResponse(f"{target}#row-{row}", 303)


@router.get("/why")
def why(
    state: Shared,
    prompts: str = "",
    file: str = "",
    row: int | None = None,
    upload: str = "",
    against: str = "",
    without: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """Say what decided the class of a picture, also as if some texts were not there."""
    files = state.served.of_kind("prompts")
    prompts = prompts or (files[0] if files else "")
    if not prompts:
        return _page("empty.html", title="Why", here="/why", what="prompts", verb="enhance")
    picture = state.picture(file=file, row=row, upload=upload)
    found = before = None
    removed = without_texts(without or [])
    if picture is not None:
        texts = state.prompts.read(state.served.find(prompts))
        before = state.explain(texts, picture, label=against or None).image
        found = state.explain(texts, picture, label=against or None, without=removed).image if removed else before
    asked = {
        "prompts": prompts,
        "file": file,
        "row": row,
        "upload": upload,
        "against": against,
        "without": without or [],
    }
    places = {} if found is None else _places(state, prompts, removed)
    return _page(
        "why.html",
        title="Why" if found is None else f"Why this is {found.winner.label}",
        here="/why",
        asked=asked,
        files=files,
        found=found,
        before=before,
        removed=without or [],
        places=places,
        query=urlencode({"prompts": prompts, **({"against": against} if against else {})}),
    )


def _places(state: State, file: str, removed: Mapping[str, set[int]]) -> dict[str, dict[str, int]]:
    """Return the place of each text that is left of each class, by class and text."""
    prompts = state.prompts.read(state.served.find(file))
    return {
        name: {text.text: place for place, text in enumerate(group) if place not in removed.get(name, set())}
        for name, group in zip(prompts.labels.names, prompts.texts, strict=True)
    }


@router.get("/runs")
def runs(state: Shared, before: str = "", after: str = "", format: str = "") -> Response:
    """Compare two results files, run by run."""
    files = state.served.of_kind("results")
    if not files:
        return _page("empty.html", title="Compare", here="/runs", what="results", verb="evaluate")
    before, after = before or files[0], after or files[-1]
    first, second = (read_results(state.served.find(name)) for name in (before, after))
    pairs = compare_results(first, second).pairs if before != after else ()
    rows = [_pair(pair) for pair in pairs]
    if format in ("json", "csv"):
        return _table([{key: value for key, value in row.items() if key != "classes"} for row in rows], format)
    every = [
        {"file": name, "task": each.task, "run": each.run, "tier": each.tier, "measures": each.measures[:6]}
        for name, results in ((before, first), (after, second))
        for each in results
    ]
    return _page(
        "runs.html", title="Compare", here="/runs", files=files, before=before, after=after, rows=rows, every=every
    )


def _pair(pair: Any) -> dict[str, Any]:
    main = pair.before.main.metric
    value = pair.after.get(main)
    classes = []
    if pair.before.images is not None and pair.after.images is not None and pair.before.labels is not None:
        old, new = (_by_class(each) for each in (pair.before, pair.after))
        both = [(name, old[name], new[name]) for name in old if name in new and old[name] != new[name]]
        classes = sorted(both, key=lambda each: -abs(each[2] - each[1]))[:15]
    return {
        "name": pair.name,
        "metric": main,
        "before": pair.before.main.value,
        "after": None if value is None else value.value,
        "difference": getattr(pair.difference, "value", None),
        **{name: getattr(pair.difference, name, None) for name in ("low", "high", "gained", "lost", "probability")},
        "classes": classes,
    }


def _by_class(result: Any) -> dict[str, float]:
    names = result.labels.names
    totals: dict[str, list[float]] = {}
    for target, right in zip(result.images["target"].to_pylist(), result.images["right"].to_pylist(), strict=True):
        if target is not None and right is not None:
            totals.setdefault(names[target], []).append(float(right))
    return {name: sum(found) / len(found) for name, found in totals.items()}
