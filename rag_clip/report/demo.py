"""The demo's page: the table, the seconds, and example photographs with the captions that decided."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from PIL import Image, ImageDraw, ImageFont

from rag_clip.data import Prompts
from rag_clip.files.atomic import replacing
from rag_clip.models.decode import decode_image
from rag_clip.protocols import Encoder
from rag_clip.report.page import render_page

_COLUMNS, _CELL, _PICTURE = 2, (640, 150), 128


@dataclass(frozen=True, slots=True)
class Example:
    """A photograph whose prediction changed with retrieval, and the captions with the most weight for the new one."""

    image: bytes
    label: str
    before: str
    after: str
    captions: tuple[str, ...]


def find_examples(out: Path, *, prompts: Prompts, encoder: Encoder, count: int = 12) -> list[Example]:
    """Choose photographs that templates got wrong, spread over the groups; five sixths are right with retrieval.

    The captions are the two of the predicted class with the largest weight * cosine to the photograph.
    """
    table = _changed(out)
    right, wrong = table.filter(pl.col("label") == pl.col("after")), table.filter(pl.col("label") != pl.col("after"))
    mistakes = min(count // 6, len(wrong))
    chosen = pl.concat([_spread(right, prompts, count - mistakes), _spread(wrong, prompts, mistakes)])
    position = {name: row for row, name in enumerate(prompts.labels.names)}
    images = encoder.encode_images(chosen["image"].to_list()).pooled
    return [
        Example(row["image"], row["label"], row["before"], row["after"], captions)
        for row, image in zip(chosen.iter_rows(named=True), images, strict=True)
        for captions in [_deciding(prompts, position[row["after"]], image, encoder)]
    ]


def _changed(out: Path) -> pl.DataFrame:
    columns = ["id", "image", "label", "predicted_label"]
    before = pl.read_parquet(out / "predictions-templates.parquet", columns=columns[::3])
    after = pl.read_parquet(out / "predictions-retrieved.parquet", columns=columns)
    both = after.rename({"predicted_label": "after"}).join(before.rename({"predicted_label": "before"}), on="id")
    return both.filter((pl.col("before") != pl.col("label")) & (pl.col("before") != pl.col("after")))


def _spread(table: pl.DataFrame, prompts: Prompts, count: int) -> pl.DataFrame:
    """Take `count` rows, from one group of classes after the other."""
    groups = pl.DataFrame({"label": prompts.labels.names, "group": prompts.labels.groups})
    turn = pl.int_range(pl.len()).over("group").alias("turn")
    return table.join(groups, on="label").with_columns(turn).sort("turn", "group").head(count)


def _deciding(prompts: Prompts, label: int, image: torch.Tensor, encoder: Encoder) -> tuple[str, ...]:
    captions = {text.text: text.weight for text in prompts.texts[label] if text.role == "context" and text.weight > 0}
    if not captions:
        return ()
    weights = torch.tensor(list(captions.values()), device=image.device)
    shares = weights * (encoder.encode_text(list(captions)) @ image)
    return tuple(list(captions)[row] for row in shares.topk(min(2, len(captions))).indices.tolist())


def draw_sheet(examples: Sequence[Example]) -> Image.Image:
    """Draw the examples in two columns: photograph, label, both predictions, and the deciding captions."""
    rows = -(-len(examples) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL[0], max(1, rows) * _CELL[1]), "white")
    for number, example in enumerate(examples):
        _draw_cell(sheet, example, (number % _COLUMNS) * _CELL[0], (number // _COLUMNS) * _CELL[1])
    return sheet


def _draw_cell(sheet: Image.Image, example: Example, left: int, top: int) -> None:
    picture = decode_image(example.image).resize((_PICTURE, _PICTURE), Image.Resampling.BICUBIC)
    sheet.paste(picture, (left + 10, top + 10))
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(12)
    right = example.after == example.label
    lines = [
        (f"truth: {example.label}", "#1d2733", font),
        (f"templates: {example.before}", "#b3261e", font),
        (f"retrieved: {example.after}", "#1b7f3b" if right else "#b3261e", font),
        *((f"“{_shorten(text)}”", "#5a6b7b", small) for text in example.captions),
    ]
    for line, (text, colour, face) in enumerate(lines):
        pen.text((left + _PICTURE + 24, top + 12 + 25 * line), text, fill=colour, font=face)


def _shorten(text: str, limit: int = 68) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def write_report(
    path: Path,
    table: Mapping[str, Mapping[str, str]],
    seconds: Mapping[str, float],
    facts: str,
    *,
    prompts: Prompts,
    encoder: Encoder,
) -> None:
    """Write the page, and examples.png beside it.

    path: the page.
    table: formatted cells by row and column.
    seconds: of each stage.
    facts: a line about the run.
    prompts: those of the retrieved run, whose captions the examples quote.
    encoder: ranks these captions.
    """
    buffer = io.BytesIO()
    draw_sheet(find_examples(path.parent, prompts=prompts, encoder=encoder)).save(buffer, format="PNG", optimize=True)
    page = render_page(
        "demo.html",
        "demo",
        title="RAG-CLIP demo",
        facts=facts,
        table=table,
        picture=base64.b64encode(buffer.getvalue()).decode(),
        seconds=seconds,
    )
    for place, content in ((path, page.encode()), (path.parent / "examples.png", buffer.getvalue())):
        with replacing(place) as partial:
            partial.write_bytes(content)
