"""The REST endpoints; the same state and functions as the pages. `/openapi.json` describes them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from rag_clip.data import Prompts
from rag_clip.files.prompts import write_prompts
from rag_clip.pipelines.classify import classify as classify_file
from rag_clip.pipelines.enhance import enhance
from rag_clip.pipelines.running import Running
from rag_clip.progress import Report
from rag_clip.web.edits import correct
from rag_clip.web.rows import Filter, predictions_of
from rag_clip.web.served import NotServedError
from rag_clip.web.state import State
from rag_clip.web.worker import Job

MOST_IMAGES = 32
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be answered; `error` says why."},
    401: {"description": "The token is missing or wrong."},
    403: {"description": "The request comes from a page of another site."},
    404: {"description": "There is no such file or job."},
    413: {"description": "The request is too large."},
    422: {"description": "The request does not fit its description."},
}

router = APIRouter(responses=ERRORS)


def state_of(request: Request) -> State:
    """Return the state of the service that a request reaches."""
    state: State = request.app.state.shared
    return state


Shared = Annotated[State, Depends(state_of)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


Name = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$")]
Words = Annotated[str, Field(max_length=2000)]


class SearchRequest(_Body):
    """A text, a picture (base64) or both; `minus` is what results should not say."""

    index: Name
    text: Words = ""
    minus: Words = ""
    image: str = Field(default="", max_length=24 << 20)
    weight: float = Field(default=2.0, ge=-100, le=100)
    mode: Literal["dense", "lexical", "hybrid"] | None = None
    limit: int = Field(default=30, ge=1, le=100)
    cursor: int = Field(default=0, ge=0, le=100)


class EnhanceRequest(_Body):
    """Class names and a recipe; the prompts are written to a new file of the folder."""

    labels: list[Name] = Field(min_length=1, max_length=5000)
    recipe: Name = "default"
    index: Name | None = None


class ClassifyFileRequest(_Body):
    """A file of images in the folder, to be classified in a job; the predictions are a new file of the folder."""

    images: Name
    prompts: Name
    refine: bool = False


class ExplainRequest(_Body):
    """A class, or the picture in a row of a file."""

    prompts: Name
    label: Name | None = None
    images: Name | None = None
    row: int | None = Field(default=None, ge=0, le=2**40)


class CorrectionsRequest(_Body):
    """The right labels of rows of a predictions file."""

    predictions: Name
    labels: dict[Annotated[str, Field(pattern=r"^\d{1,12}$")], Name] = Field(min_length=1, max_length=10_000)


@router.get("/health")
def health(state: Shared) -> dict[str, Any]:
    """Say that the service answers, its version, and how many jobs wait or run."""
    open_jobs = sum(job.state in ("waiting", "running") for job in list(state.worker.jobs.values()))
    return {"status": "ok", "version": version("rag-clip"), "jobs": open_jobs}


@router.get("/v1/indexes")
def indexes(state: Shared) -> dict[str, Any]:
    """List the indexes."""
    return {"indexes": state.indexes()}


@router.get("/v1/files")
def files(state: Shared) -> dict[str, Any]:
    """List the files and indexes of the folder."""
    return {"files": [asdict(entry) for entry in state.served.entries()]}


@router.post("/v1/search")
def search(asked: SearchRequest, state: Shared) -> dict[str, Any]:
    """Search an index; `next` is the cursor of the following results, or null."""
    try:
        image = base64.b64decode(asked.image, validate=True) if asked.image else None
    except binascii.Error as error:
        raise ValueError("image is not base64; encode the bytes of an image file") from error
    if image is not None:
        state.keep(image)
    hits = state.search(
        asked.index,
        text=asked.text,
        minus=asked.minus,
        image=image,
        weight=asked.weight,
        mode=asked.mode,
        limit=asked.limit,
        offset=asked.cursor,
    )
    after = asked.cursor + len(hits)
    return {"hits": hits, "next": after if len(hits) == asked.limit and after <= 100 else None}


@router.post("/v1/enhance")
def enhance_labels(asked: EnhanceRequest, state: Shared) -> dict[str, Any]:
    """Turn class names into prompts, in a job whose result names the new file."""
    index = None if asked.index is None else state.store(asked.index)
    recipe = asked.recipe if not asked.recipe.partition(":")[0].endswith(".toml") else _recipe(state, asked.recipe)

    def run(report: Report) -> Mapping[str, Any]:
        recorded = {} if index is None else asdict(index.card.encoder)
        prompts = enhance(
            asked.labels, encoder=state.worker.encoder(recorded), recipe=recipe, index=index, report=report
        )
        path = state.served.new("prompts", ".parquet")
        write_prompts(prompts, path)
        return {"prompts": state.served.name(path), "classes": len(prompts.labels)}

    return state.worker.start("enhance", run).facts()


def _recipe(state: State, name: str) -> str:
    file, colon, which = name.partition(":")
    return f"{state.served.find(file)}{colon}{which}"


@router.post("/v1/classify")
def classify(
    images: Annotated[list[UploadFile], Field(min_length=1)],
    prompts: Name,
    state: Shared,
    top_k: Annotated[int, Field(ge=1, le=100)] = 5,
) -> dict[str, Any]:
    """Classify up to 32 uploaded pictures."""
    if len(images) > MOST_IMAGES:
        raise ValueError(f"{len(images)} pictures were sent; at most {MOST_IMAGES} at once, or classify a file")
    content = [each.file.read() for each in images]
    for each in content:
        state.keep(each)
    return {"predictions": state.classify(prompts, content, top_k=top_k)}


@router.post("/v1/classify/file")
def classify_images(asked: ClassifyFileRequest, state: Shared) -> dict[str, Any]:
    """Classify a file of images, in a job; started again with the same files, it goes on where it was."""
    images, path = state.served.find(asked.images), state.served.find(asked.prompts)
    output = images.with_name(f"{images.stem}-by-{path.stem}.parquet")

    def run(report: Report) -> Mapping[str, Any]:
        from rag_clip.classifiers.match import Scoring

        prompts = state.prompts.read(path)
        summary = classify_file(
            images,
            prompts=path,
            output=output,
            encoder=state.worker.encoder(prompts.recorded.encoder),
            scoring=Scoring(refine=asked.refine),
            running=Running(workers=0, report=report),
        )
        return {"predictions": state.served.name(output), "rows": summary.rows, "failed": summary.failed}

    return state.worker.start("classify", run).facts()


@router.get("/v1/predictions")
def predictions(
    file: Name,
    state: Shared,
    only: Annotated[Filter, Depends()],
    start: Annotated[int, Field(ge=0)] = 0,
    limit: Annotated[int, Field(ge=1, le=1000)] = 48,
) -> dict[str, Any]:
    """Return rows of a predictions file, and the row to go on from."""
    return asdict(predictions_of(state.served.find(file)).page(start=start, limit=limit, only=only))


@router.get("/v1/jobs/{name}")
def job(name: str, state: Shared) -> dict[str, Any]:
    """Return the state of a job."""
    return _job(state, name).facts()


@router.get("/v1/jobs/{name}/events", response_class=StreamingResponse)
def events(name: str, state: Shared) -> StreamingResponse:
    """Send the state of a job after each change, as server-sent events, until it has ended."""
    found = _job(state, name)

    def lines() -> Iterator[str]:
        for facts in found.events():
            yield f"data: {json.dumps(facts)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@router.post("/v1/explain")
def explain(asked: ExplainRequest, state: Shared) -> dict[str, Any]:
    """Explain a class by its texts, or the class of a picture by the texts that decided."""
    picture = None if asked.images is None else state.picture(file=asked.images, row=asked.row or 0)
    found = state.explain(state.prompts.read(state.served.find(asked.prompts)), picture, label=asked.label)
    return {
        "label": None if found.label is None else asdict(found.label),
        "image": None if found.image is None else asdict(found.image),
    }


@router.post("/v1/corrections")
def corrections(asked: CorrectionsRequest, state: Shared) -> dict[str, Any]:
    """Keep the right labels of rows; the file is evidence for `rag-clip support corrections`."""
    path = state.served.find(asked.predictions)
    return {"corrected": correct_rows(state, path, {int(row): label for row, label in asked.labels.items()})}


def _job(state: State, name: str) -> Job:
    found = state.worker.jobs.get(name)
    if found is None:
        raise NotServedError(f"there is no job {name!r}; jobs are kept until the service ends, at most 200")
    return found


def correct_rows(state: State, path: Path, right: Mapping[int, str]) -> int:
    """Keep corrections of a predictions file; raises ValueError for a row that is not there and for no class."""
    opened = predictions_of(path)
    for row in right:
        if row >= opened.total:
            raise ValueError(f"{path.name} has no row {row}; its {opened.total} rows count from 0")
    return correct(path, prompts_for(state, path).labels, right)


def prompts_for(state: State, predictions: Path) -> Prompts:
    """Return the prompts that predictions were made by, or else the only prompts of the folder.

    Raises NotServedError where neither is there.
    """
    recorded = predictions_of(predictions).facts.get("prompts", {}).get("digest", "")
    files = [state.served.find(name) for name in state.served.of_kind("prompts")]
    for path in files:
        if len(files) == 1 or state.prompts.digest(path) == recorded:
            return state.prompts.read(path)
    raise NotServedError(f"the prompts that made {predictions.name} are not in the served folder; put them there")
