"""The demo's pages: the table and example photographs with the captions that decided; and all classes, to explore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import polars as pl
import torch

from rag_clip.data import Prompts
from rag_clip.files.atomic import replacing
from rag_clip.models.decode import decode_image
from rag_clip.protocols import Encoder
from rag_clip.report.examples import data_uri
from rag_clip.report.explore import explore_page
from rag_clip.report.page import render_page

CLASSES = "classes.html"


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


def write_report(
    path: Path,
    table: Mapping[str, Mapping[str, str]],
    seconds: Mapping[str, float],
    facts: str,
    *,
    prompts: Prompts,
    encoder: Encoder,
) -> None:
    """Write the page, and `classes.html` beside it, where each class can be explored.

    path: the page.
    table: formatted cells by row and column; the first row is of templates, the third of the retrieved run.
    seconds: of each stage.
    facts: a line about the run.
    prompts: those of the retrieved run, whose captions the examples quote.
    encoder: ranks these captions.
    """
    examples = find_examples(path.parent, prompts=prompts, encoder=encoder)
    methods = list(table)
    folder = quote(str(path.parent))
    page = render_page(
        "demo.html",
        "demo",
        title="RAG-CLIP demo",
        facts=facts,
        table=table,
        lead={
            "name": methods[2],
            "before": _percent(table[methods[0]]["all"]),
            "after": _percent(table[methods[2]]["all"]),
        },
        classes=CLASSES,
        count=len(prompts.labels),
        commands={
            "explain": f"rag-clip explain --images {folder}/test.parquet --row 0 "
            f"--prompts {folder}/prompts-retrieved.parquet --html why.html",
            "own": "rag-clip index build captions.parquet --index captions-index --model ViT-B-32:openai\n"
            "rag-clip enhance labels.txt --index captions-index -o prompts.parquet --html classes.html\n"
            "rag-clip classify images.parquet --prompts prompts.parquet -o predictions.parquet",
        },
        examples=[
            {
                "picture": data_uri(decode_image(each.image)),
                "label": each.label,
                "before": each.before,
                "after": each.after,
                "captions": [_shorten(caption) for caption in each.captions],
            }
            for each in examples
        ],
        seconds=seconds,
    )
    pages = {path: page, path.parent / CLASSES: explore_page(prompts, encoder, verb="demo")}
    for place, content in pages.items():
        with replacing(place) as partial:
            partial.write_text(content, encoding="utf-8")


def _percent(cell: str) -> str:
    return f"{float(cell.split()[0]):.0f}%"


def _shorten(text: str, limit: int = 140) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
