"""Images whose prediction became right or wrong in a second run, with the captions that support the prediction."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from PIL import Image

from rag_clip.data import Prompts, PromptText
from rag_clip.evaluation.results import Result
from rag_clip.files.prompts import read_prompts
from rag_clip.images.items import read_image
from rag_clip.images.opening import open_image_files
from rag_clip.images.rows import read_items
from rag_clip.models.decode import ImageError, decode_image
from rag_clip.protocols import Encoder

SIDE = 128
CAPTIONS = 2


@dataclass(frozen=True, slots=True)
class Example:
    """An image as a data URI ('' if its file is missing), its label, both predictions, and captions of the second."""

    picture: str
    label: str
    before: str
    after: str
    captions: tuple[PromptText, ...]

    @property
    def quotes(self) -> list[str]:
        """The captions in quotation marks, with their source."""
        return [f"“{caption.text}”" + (f" ({caption.source})" if caption.source else "") for caption in self.captions]


@dataclass(frozen=True, slots=True)
class Changes:
    """Images that only the second run gets right, and images that only the first run gets right."""

    gained: tuple[Example, ...]
    lost: tuple[Example, ...]


def find_changes(before: Result, after: Result, *, encoder: Encoder | None = None, count: int = 6) -> Changes:
    """Choose up to `count` images gained and lost, spread over the groups of classes, in the order of the files.

    The captions are those of the predicted class with the largest weight, times the cosine to the image if `encoder` is
    given. Images and prompts that are missing or no longer fit are left empty. Raises ValueError for runs without
    images, or of different images.
    """
    if before.images is None or after.images is None or after.labels is None:
        raise ValueError(f"the images of {before.run!r} and {after.run!r} were not kept; evaluate again")
    pair = [answers(run) for run in (before, after)]
    was = pair[0].select("row", "target", before="predicted", was="right")
    both = pair[1].join(was, on=["row", "target"], maintain_order="left")
    if both.is_empty():
        raise ValueError(
            f"{before.run!r} and {after.run!r} were measured on different images of {after.task!r}; evaluate both again"
        )
    prompts = _prompts(after)
    kinds = (both.filter(pl.col("right") & ~pl.col("was")), both.filter(~pl.col("right") & pl.col("was")))
    groups = pl.DataFrame(
        {"target": pl.arange(len(after.labels), eager=True, dtype=pl.Int32), "group": after.labels.groups}
    )
    gained, lost = (
        tuple(_example(row, after, prompts, encoder) for row in _spread(kind, groups, count).iter_rows(named=True))
        for kind in kinds
    )
    return Changes(gained, lost)


def find_confused(result: Result, pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Return the first image of each pair of label and answer as a data URI; '' where its file is missing."""
    table = answers(result)
    found = []
    for label, answer in pairs:
        rows = table.filter((pl.col("target") == label) & (pl.col("predicted") == answer))["row"]
        content = None if rows.is_empty() else _picture(result, int(rows[0]))
        found.append("" if content is None else data_uri(content))
    return found


def answers(result: Result) -> pl.DataFrame:
    """Return the predictions of a run, one row per image; with several draws of shots, those of the first draw."""
    return pl.DataFrame(pl.from_arrow(result.images)).unique("row", keep="first", maintain_order=True)


def _spread(table: pl.DataFrame, groups: pl.DataFrame, count: int) -> pl.DataFrame:
    turn = pl.int_range(pl.len()).over("group").alias("turn")
    return table.join(groups, on="target", maintain_order="left").with_columns(turn).sort("turn", "row").head(count)


def _example(row: Mapping[str, int], after: Result, prompts: Prompts | None, encoder: Encoder | None) -> Example:
    assert after.labels is not None
    names = after.labels.names
    content = _picture(after, row["row"])
    answer = names[row["predicted"]]
    captions = _captions(answer, prompts, content, encoder) if prompts else ()
    uri = data_uri(content) if content is not None else ""
    return Example(uri, names[row["target"]], names[row["before"]], answer, captions)


def _captions(
    answer: str, prompts: Prompts, picture: Image.Image | None, encoder: Encoder | None
) -> tuple[PromptText, ...]:
    group = prompts.texts[prompts.labels.names.index(answer)]
    captions = list({text.text: text for text in group if text.role == "context" and text.weight > 0}.values())
    if not captions:
        return ()
    shares = torch.tensor([caption.weight for caption in captions])  # [t]
    if encoder is not None and picture is not None:
        image = encoder.encode_images([picture]).pooled[0]  # [d]
        shares = shares * (encoder.encode_text([caption.text for caption in captions]) @ image).float().cpu()
    return tuple(captions[row] for row in shares.topk(min(CAPTIONS, len(captions))).indices.tolist())


def _prompts(result: Result) -> Prompts | None:
    """Read the prompts of a run; None if the file is missing, damaged, or has other classes."""
    path = Path(result.settings.prompts.path)
    if result.labels is None or not path.is_file() or path.suffix == ".npz":
        return None
    try:
        prompts = read_prompts(path)
    except (OSError, ValueError):
        return None
    return prompts if set(prompts.labels.names) == set(result.labels.names) else None


def _picture(result: Result, row: int) -> Image.Image | None:
    """Decode one image of a run's files; None if the files or the image are missing."""
    task = result.settings.task
    try:
        files = open_image_files(task.files, image_column=task.image_column)
        for file in files:
            if row < file.rows:
                return decode_image(read_image(next(read_items(file, [1], start=row))[0]))
            row -= file.rows
    except (OSError, ValueError, ImageError):
        return None
    return None


def data_uri(picture: Image.Image) -> str:
    """Return a picture as a JPEG whose longer side is `SIDE` pixels."""
    side = max(picture.size)
    resample = Image.Resampling.BICUBIC if side >= SIDE else Image.Resampling.NEAREST
    size = (max(1, round(picture.width * SIDE / side)), max(1, round(picture.height * SIDE / side)))
    stream = io.BytesIO()
    picture.convert("RGB").resize(size, resample).save(stream, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
