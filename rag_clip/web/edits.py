"""What a person changes: prompts, written to new files, and corrections, added to one file per predictions."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rag_clip.data import LabelSet, Prompts
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import CORRECTIONS, holding
from rag_clip.words import near_names

_WRITING = threading.Lock()


def edited(prompts: Prompts, label: str, weights: Mapping[int, float]) -> Prompts:
    """Return prompts with other weights of some texts of a class, by their place; 0 removes a text.

    The weights of the class are rescaled to keep their sum. Raises ValueError for an unknown class, a place or weight
    out of range, and if no text with a weight would be left.
    """
    row = class_number(prompts.labels, label)
    group = prompts.texts[row]
    for place, weight in weights.items():
        if not 0 <= place < len(group) or not 0 <= weight < float("inf"):
            raise ValueError(f"{label} has {len(group)} texts; text {place} cannot get the weight {weight}")
    texts = [replace(text, weight=weights.get(place, text.weight)) for place, text in enumerate(group)]
    kept = [text for place, text in enumerate(texts) if weights.get(place, 1.0) > 0]
    before, after = sum(text.weight for text in group), sum(text.weight for text in kept)
    if not after > 0:
        raise ValueError(f"no text of {label} would be left; keep at least one")
    scaled = tuple(replace(text, weight=text.weight * before / after) for text in kept)
    return replace(prompts, texts=(*prompts.texts[:row], scaled, *prompts.texts[row + 1 :]))


def class_number(labels: LabelSet, name: str) -> int:
    """Return the number of a class by its exact name; raises ValueError, with the nearest names, if there is none."""
    if name not in labels.names:
        near = near_names(name, labels.names)
        raise ValueError(f"there is no class {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))
    return labels.names.index(name)


def corrections_path(predictions: Path) -> Path:
    """Return the file of the corrections of a predictions file."""
    return predictions.with_name(f"{predictions.stem}-corrections.parquet")


def read_corrected(predictions: Path) -> dict[int, str]:
    """Return the corrected labels by row; {} if there are none."""
    path = corrections_path(predictions)
    if not path.exists():
        return {}
    table = pq.read_table(path, columns=["row", "label"])
    return dict(zip(table["row"].to_pylist(), table["label"].to_pylist(), strict=True))


def correct(predictions: Path, labels: LabelSet, right: Mapping[int, str]) -> int:
    """Add corrections, labels by row, to the file of the predictions, and return how many it then has.

    The file is what `support corrections FILE --images PREDICTIONS` reads. Raises ValueError for a label that is no
    class, and for a file there that another program wrote.
    """
    for label in right.values():
        class_number(labels, label)
    path = corrections_path(predictions)
    with _WRITING, holding([(path, "serve")], inputs=[predictions]):
        merged = dict(sorted({**read_corrected(predictions), **right}.items()))
        columns = {"row": pa.array(merged, pa.int64()), "label": pa.array(merged.values(), pa.string())}
        facts = {CORRECTIONS: json.dumps({"predictions": predictions.name})}
        with replacing(path) as partial:
            pq.write_table(pa.table(columns).replace_schema_metadata(facts), partial, write_page_checksum=True)
    return len(merged)
