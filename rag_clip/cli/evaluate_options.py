"""Options of `rag-clip evaluate` that belong together: the encoder, where tasks lie, and the heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.run import ENCODER as ENCODER_GROUP
from rag_clip.cli.run import HEAD, TASKS, Device, EncoderOptions, ImageColumn, LabelColumn, Precision, model_files

if TYPE_CHECKING:
    from rag_clip.evaluation.head_choices import HeadChoice
    from rag_clip.evaluation.runs import PromptFile
    from rag_clip.evaluation.shot_runs import FewShot
    from rag_clip.evaluation.task import Task
    from rag_clip.files.locations import Place
    from rag_clip.protocols import Encoder

Many = Parameter(negative=(), consume_multiple=True)
PromptPaths = Annotated[
    list[Path] | None, Many, Parameter(help="Prompts files, each a run; the page compares with the first.")
]
Index = Annotated[str | None, Parameter(help="The index of the prompts: its captions are not encoded again.")]
Names = Annotated[
    str | None,
    Parameter(help="Further names to be mistaken for: a word list, a label file, captions, or an index of them."),
]


@Parameter(name="*", group=ENCODER_GROUP)
@dataclass(frozen=True)
class AnyEncoder(EncoderOptions):
    """The options of an encoder that features in files do without."""

    model: Annotated[str, Parameter(help="The encoder, as for classify; none for features alone.")] = ""
    device: Device = None  # again, since the types are looked up in this module
    precision: Precision = None
    second: Annotated[list[str] | None, Many, Parameter(help="Further encoders that heads need.")] = None

    @property
    def files(self) -> list[str]:
        """The files and folders that the models are read from."""
        return model_files(self.model, *(self.second or ()))

    def load_second(self, console: Console) -> dict[str, Encoder]:
        """Load the further encoders by their names."""
        return {name: self.load(console, name) for name in self.second or ()}


@Parameter(name="*", group=TASKS)
@dataclass(frozen=True)
class Places:
    """Where tasks are read from."""

    data: Annotated[str, Parameter(help="Folder of the files of tasks, or its URL.")] = "."
    labels: Annotated[Path | None, Parameter(help="Classes and groups of plain files; else the prompts'.")] = None
    image_column: ImageColumn = "image"
    label_column: LabelColumn = "label"

    def open(self, tasks: Sequence[str], texts: Sequence[PromptFile]) -> list[tuple[Task, Place]]:
        """Open tasks, plain files with the classes of `labels` or of the first texts."""
        from rag_clip.evaluation.image_tasks import open_tasks
        from rag_clip.files.labels import read_labels

        if not tasks:
            raise ValueError("there is nothing to measure on; give labelled images, features or tasks")
        classes = read_labels(self.labels) if self.labels else texts[0].prompts.labels if texts else None
        columns = {"image_column": self.image_column, "label_column": self.label_column}
        opened: list[tuple[Task, Place]] = open_tasks(tasks, folder=self.data, labels=classes, **columns)
        return opened


@Parameter(name="*", group=HEAD)
@dataclass(frozen=True)
class Heads:
    """Which heads are measured beside the texts, and on which images of support."""

    head: Annotated[list[str] | None, Many, Parameter(help="Also measure these heads on each prompts file.")] = None
    support: Annotated[Path | None, Parameter(help="A support file, for the heads.")] = None
    head_options: Annotated[Path | None, Parameter(help="TOML with settings, a table per head.")] = None
    shots: Annotated[
        list[int | Literal["all"]] | None, Many, Parameter(help="Images per class to draw for the heads, or all.")
    ] = None
    seeds: Annotated[int, Parameter(help="How many times shots are drawn.")] = 3
    validate: Annotated[bool, Parameter(negative=(), help="Choose settings by a fifth of the shots.")] = False
    validation: Annotated[Path | None, Parameter(help="A support file that heads may choose settings by.")] = None
    floor: Annotated[bool, Parameter(help="Use no more of a head than held-out images bear out, at worst none.")] = True

    @property
    def files(self) -> list[Path | None]:
        """The files that are read."""
        return [self.support, self.head_options, self.validation]

    def choose(self) -> tuple[list[HeadChoice], FewShot | None]:
        """Return the heads on the support file, and those on shots."""
        from rag_clip.classifiers.heads import read_options
        from rag_clip.evaluation.head_choices import choose_heads
        from rag_clip.evaluation.shot_runs import FewShot

        names = tuple(self.head or ())
        options = read_options(self.head_options) if self.head_options else {}
        few_shot = (
            FewShot(names, tuple(self.shots), self.seeds, options, self.validate, self.floor) if self.shots else None
        )
        if self.validate and not few_shot:
            raise ValueError("--validate holds out a fifth of the --shots; say how many, or give --validation a file")
        if few_shot and not self.support:
            return [], few_shot
        chosen = choose_heads(
            names, support=self.support, options=options, validation=self.validation, floor=self.floor
        )
        return chosen, few_shot


ENCODER, PLACES, HEADS = AnyEncoder(), Places(), Heads()
