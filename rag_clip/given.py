"""Conversions of user arguments into the values that jobs need: names into labels, paths into prompts, frames.

Each function returns a value of the right type unchanged. For a value that it cannot convert, it raises a TypeError
that says what to pass. Every job begins with these functions, and nothing else converts its arguments.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

import polars as pl
import pyarrow as pa
from PIL import Image

from rag_clip.data import LabelSet, Prompts, check_same_encoder, read_fingerprint
from rag_clip.files.atomic import scratch_folder
from rag_clip.files.labels import read_labels
from rag_clip.files.prompts import read_prompts
from rag_clip.files.regular import read_regular
from rag_clip.images.items import read_image
from rag_clip.images.opening import Images
from rag_clip.store import Store, open_store
from rag_clip.store.queries import Query

if TYPE_CHECKING:  # at run time they are imported where they are used, for they need torch, which some jobs do not
    from rag_clip.evaluation.image_tasks import ImageTask
    from rag_clip.evaluation.runs import PromptFile
    from rag_clip.files.learned_prompts import LearnedPrompts
    from rag_clip.prompts.recipe import Recipe
    from rag_clip.protocols import Encoder

Summary = TypeVar("Summary")


class Frame(Protocol):
    """A table in memory with Arrow's C interface: a polars or pandas frame, or a pyarrow table."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return its rows as a stream of Arrow's C interface."""


AnyLabels = LabelSet | str | Path | Sequence[str]
AnyEncoder: TypeAlias = "Encoder | str"
AnyPrompts: TypeAlias = "Prompts | LearnedPrompts | str | Path"
ManyPrompts: TypeAlias = "AnyPrompts | Sequence[str | Path | Prompts] | Mapping[str, Any]"
AnyRecipe: TypeAlias = "Recipe | str | Path"
AnyIndex = Store | str | Path
OneImage = str | Path | bytes | Image.Image
AnyTexts: TypeAlias = (
    "str | Path | Prompts | Sequence[str | Path | Prompts | PromptFile] | Mapping[str, str | Path | Prompts]"
)
AnyTasks: TypeAlias = "str | Path | ImageTask | Frame | Sequence[str | Path | ImageTask | Frame]"
AnyCaptions = str | Path | Frame | Sequence[str | Path | Frame]
AnyImages = OneImage | Frame | Sequence[OneImage | Frame] | Images


def to_labels(given: AnyLabels) -> LabelSet:
    """Return a label set, given itself, the path of a label file, or a list of names."""
    if isinstance(given, LabelSet):
        return given
    if isinstance(given, str | Path):
        return read_labels(given)
    if isinstance(given, Sequence) and all(isinstance(name, str) for name in given):
        return LabelSet(tuple(given))
    raise _refused("labels", given, "a list of names, the path of a label file, or a LabelSet")


def to_prompts(given: AnyPrompts) -> Prompts | LearnedPrompts:
    """Return prompts or learned prompts, given themselves or the path of their file."""
    from rag_clip.files.learned_prompts import LearnedPrompts, read_learned_prompts
    from rag_clip.files.tensors import SUFFIX

    if isinstance(given, Prompts | LearnedPrompts):
        return given
    if isinstance(given, str | Path):
        return read_learned_prompts(given) if Path(given).suffix.lower() == SUFFIX else read_prompts(given)
    raise _refused("prompts", given, "the path of a prompts file, or Prompts, such as enhance(labels, ...) returns")


def to_candidates(given: ManyPrompts) -> dict[str, Prompts | LearnedPrompts]:
    """Return prompts by name: one set, possibly learned, or several of the same classes, of which images choose."""
    from rag_clip.files.learned_prompts import LearnedPrompts
    from rag_clip.refinement.choose_prompts import align_prompts

    if isinstance(given, Prompts | LearnedPrompts | str | Path):
        prompts = to_prompts(given)
        return {prompts.recorded.method: prompts}
    return dict(align_prompts({file.name: file.prompts for file in to_prompt_files(given)}))


def to_texts(given: Prompts | str | Path) -> Prompts:
    """Return prompts, given themselves or the path of their file; raises ValueError for learned prompts."""
    if isinstance(given, Prompts):
        return given
    if isinstance(given, str | Path):
        return read_prompts(given)
    raise _refused("prompts", given, "the path of a prompts file, or Prompts, such as enhance(labels, ...) returns")


def to_encoder(given: Encoder | str | None, *, recorded: Mapping[str, Any] = MappingProxyType({})) -> Encoder:
    """Return an encoder, given itself or the name of a model; given None, the one whose fingerprint is `recorded`.

    Raises ValueError if none is recorded, and if the recorded name now gives another model.
    """
    if given is not None and not isinstance(given, str):
        if hasattr(given, "encode_pixels"):
            return given
        raise _refused("encoder", given, "the name of a model, such as 'demo' or 'ViT-B-32:openai', or an Encoder")
    from rag_clip.models.open_clip import load_encoder  # its import takes seconds, and is not needed for an Encoder

    if given is not None:
        return load_encoder(given)
    made_with = read_fingerprint(recorded) if recorded else None
    if made_with is None or not made_with.spec:
        raise ValueError("nothing says which encoder to use; give encoder, such as 'demo' or 'ViT-B-32:openai'")
    encoder = load_encoder(made_with.spec)
    advice = "give the encoder that was meant, or make it again"
    check_same_encoder(made_with, encoder.fingerprint, what=f"what records {made_with.spec} was made", advice=advice)
    return encoder


def to_encoders(given: Mapping[str, Encoder] | Sequence[str]) -> Mapping[str, Encoder]:
    """Return encoders by name: these, or those of the names of models; raises TypeError for one name alone."""
    if isinstance(given, Mapping):
        return given
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise _refused("others", given, "a list of names of models, or a mapping from names to encoders")
    return {name: to_encoder(name) for name in given}


def to_recipe(given: AnyRecipe) -> Recipe:
    """Return a recipe, given itself, its name, or a TOML file."""
    from rag_clip.prompts.recipe import Recipe, load_recipe, recipe_names

    if isinstance(given, Recipe):
        return given
    if isinstance(given, str | Path):
        return load_recipe(given)
    raise _refused("recipe", given, f"one of the names {', '.join(recipe_names())}, a TOML file, or a Recipe")


def index_place(given: AnyIndex | None) -> str | None:
    """Return the location of an index, given as a folder, a URL or an open store."""
    if given is None or isinstance(given, str | Path | Store):
        return given.location if isinstance(given, Store) else None if given is None else str(given)
    raise _refused("index", given, "the folder of an index, the address of a Qdrant server, or an open Store")


@contextmanager
def opened(given: AnyIndex) -> Iterator[Store]:
    """Yield an open store; a store stays open after the block, and an index opened from its location is closed."""
    if isinstance(given, Store):
        yield given
    else:
        with open_store(str(index_place(given))) as store:
            yield store


def to_images(given: AnyImages, name: str = "images") -> Images:
    """Return images whose `paths` are a list of paths and tables, given paths, frames, PIL images or bytes.

    `name` is the argument's, for the message.
    """
    images = given if isinstance(given, Images) else Images(given)
    paths: Any = images.paths
    if isinstance(paths, str | Path | bytes | Image.Image) or _is_frame(paths):
        paths = [paths]
    if not isinstance(paths, Sequence):
        raise _refused(name, paths, _IMAGES)
    if paths and all(isinstance(each, bytes | Image.Image) for each in paths):
        pixels = [each if isinstance(each, bytes) else _png(each) for each in paths]
        return replace(images, paths=[pa.table({images.image_column: pa.array(pixels, pa.binary())})])
    return replace(images, paths=[_to_source(each, name) for each in paths])


def to_places(given: AnyImages, name: str) -> Images:
    """Return images that are in files only; `name` is the argument's name in messages."""
    images = given if isinstance(given, Images) else Images(given)
    return replace(images, paths=to_paths(images.paths, name))


def to_prompt_files(given: AnyTexts) -> list[PromptFile]:
    """Return prompts with the names of their runs: the keys of a mapping, names of files, or methods of Prompts.

    Raises ValueError if two have the same name.
    """
    from rag_clip.evaluation.runs import PromptFile, read_prompt_files

    if isinstance(given, Mapping):
        return [PromptFile(name, Path(name), to_texts(each)) for name, each in given.items()]
    listed = [given] if isinstance(given, str | Path | Prompts) else given
    known = (str, Path, Prompts, PromptFile)
    if not isinstance(listed, Sequence) or not all(isinstance(each, known) for each in listed):
        raise _refused("prompts", given, "paths of prompts files, Prompts, or a mapping from names to these")
    paths = [each for each in listed if isinstance(each, str | Path)]
    read = iter(read_prompt_files(paths) if paths else ())
    files = [
        _named(each) if isinstance(each, Prompts) else each if isinstance(each, PromptFile) else next(read)
        for each in listed
    ]
    methods = [file.name for file, each in zip(files, listed, strict=True) if isinstance(each, Prompts)]
    if repeated := next((name for name in methods if methods.count(name) > 1), None):
        raise ValueError(f"two prompts would both be called {repeated!r}; give a mapping from names to prompts")
    return files


def _named(prompts: Prompts) -> PromptFile:
    from rag_clip.evaluation.runs import PromptFile

    method = prompts.recorded.method
    return PromptFile(method, Path(method), prompts)


def to_tasks(given: AnyTasks, *, labels: LabelSet | None) -> list[ImageTask]:
    """Return the tasks to evaluate on: given tasks, then those of paths (see `open_tasks`), then frames.

    Raises ValueError if there is none, and if the classes of a frame's images are unknown.
    """
    from rag_clip.evaluation.image_tasks import ImageTask, image_task, open_tasks, table_task

    alone = isinstance(given, str | Path | ImageTask) or _is_frame(given)
    listed: Any = [given] if alone else given
    known = (str, Path, ImageTask)
    if not isinstance(listed, Sequence) or not all(isinstance(each, known) or _is_frame(each) for each in listed):
        raise _refused("tasks", given, "paths of labelled images or features, names of bundled tasks, or frames")
    if not listed:
        raise ValueError("there is nothing to evaluate on; give labelled images, features or tasks")
    opened = open_tasks([each for each in listed if isinstance(each, str | Path)], labels=labels)
    frames = [_to_table(each) for each in listed if not isinstance(each, known)]
    if frames and labels is None:
        raise ValueError("nothing says which classes the images of a frame are of; give prompts")
    names = ["frame"] if len(frames) == 1 else [f"frame {number}" for number in range(1, len(frames) + 1)]
    return [
        *(each for each in listed if isinstance(each, ImageTask)),
        *(image_task(task, folder) for task, folder in opened),
        *(table_task(frame, labels, name=name) for frame, name in zip(frames, names, strict=True) if labels),
    ]


def to_image(given: OneImage) -> bytes:
    """Return the bytes of an image file, given its path, a PIL image, or the bytes themselves."""
    if isinstance(given, str | Path):
        return read_image(given) if isinstance(given, str) else read_regular(given)
    if isinstance(given, Image.Image):
        return _png(given)
    if isinstance(given, bytes):
        return given
    raise _refused("image", given, "the path of an image, a PIL image, or the bytes of its file")


def to_queries(given: str | Query | Sequence[str | Query], *, image: bytes | None = None) -> list[Query]:
    """Return one query per text, each with the `image` if there is one; without texts, one query of the image."""
    asked = [given] if isinstance(given, str | Query) else given
    if not isinstance(asked, Sequence) or not all(isinstance(each, str | Query) for each in asked):
        raise _refused("queries", given, "a text, a Query, or a list of these")
    if image is not None and not asked:
        return [Query(image=image)]
    return [each if isinstance(each, Query) else Query(each, image) for each in asked]


def to_captions(given: AnyCaptions) -> list[str | Path | pa.Table]:
    """Return a list of paths, URLs and tables, given one or several paths, URLs and frames of captions."""
    listed = [given] if isinstance(given, str | Path) or _is_frame(given) else given
    if isinstance(listed, Sequence) and all(isinstance(each, str | Path) or _is_frame(each) for each in listed):
        return [each if isinstance(each, str | Path) else _to_table(each) for each in listed]
    raise _refused("captions", given, "a path or URL, a polars or pandas frame, a pyarrow table, or a list of these")


def to_paths(given: str | Path | Sequence[str | Path], name: str) -> list[str | Path]:
    """Return a list of paths or URLs, given one or several; `name` is the argument's name in messages."""
    paths = [given] if isinstance(given, str | Path) else given
    if isinstance(paths, Sequence) and all(isinstance(path, str | Path) for path in paths):
        return list(paths)
    raise _refused(name, given, "a path or URL, or a list of them")


def image_files(images: Images) -> list[str | Path]:
    """Return the paths among images: the input files that an output must not replace."""
    return [each for each in images.paths if isinstance(each, str | Path)]


def scratch_output(output: str | Path | None, name: str) -> tuple[Path, ExitStack]:
    """Return the output path, or a temporary file of that name, with a stack that deletes the temporary file."""
    stack = ExitStack()
    return (Path(output) if output is not None else stack.enter_context(scratch_folder()) / name), stack


def kept_with(summary: Summary, stack: ExitStack) -> Summary:
    """Return the summary, and close the stack, such as that of `scratch_output`, when it is garbage-collected."""
    weakref.finalize(summary, stack.close)
    return summary


_IMAGES = "paths of images or of files of them, a polars or pandas frame, a pyarrow table, or a list of PIL images"


def _to_source(given: object, name: str) -> str | Path | pa.Table:
    if isinstance(given, str | Path):
        return given
    if _is_frame(given):
        return _to_table(given)
    if isinstance(given, bytes | Image.Image):
        raise TypeError("images are both in memory and in files; give either a list of images, or of paths")
    raise _refused(name, given, _IMAGES)


def _is_frame(given: object) -> bool:
    """Return whether a value is a table with named columns, unlike a polars or pandas Series."""
    return hasattr(given, "__arrow_c_stream__") and hasattr(given, "columns")


def _to_table(given: Any) -> pa.Table:
    if isinstance(given, pl.DataFrame):
        return given.to_arrow()
    try:
        table = pa.table(given)
    except (pa.ArrowException, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TypeError(
            f"the frame cannot be taken as an Arrow table ({reason}); images are bytes or paths, captions texts"
        ) from error
    notes = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
    unnamed = [name for name in table.column_names if name.startswith("__index_level_")]
    return table.drop_columns(unnamed).replace_schema_metadata(notes)


def _png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _refused(name: str, given: object, wanted: str) -> TypeError:
    found = f"of type {type(given).__name__}"
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        other = next((type(each).__name__ for each in given if not isinstance(each, str | Path)), "")
        found += f", and contains a value of type {other}" if other else ""
    return TypeError(f"{name} is {found}; give {wanted}")
