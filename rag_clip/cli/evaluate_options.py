"""Groups of options of `rag-clip evaluate`: the encoder, the files of tasks, and the heads."""

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
    list[Path] | None,
    Many,
    Parameter(help="Prompts files, each a run; the report compares the others with the first."),
]
Index = Annotated[
    str | None, Parameter(help="The index of the prompts; its vectors spare encoding their captions again.")
]
Names = Annotated[
    str | None,
    Parameter(help="Candidates for adversarial names: a word list, a label file, captions, or a caption index."),
]


@Parameter(name="*", group=ENCODER_GROUP)
@dataclass(frozen=True)
class AnyEncoder(EncoderOptions):
    """The options of an encoder, which is not needed for features in files."""

    model: Annotated[str, Parameter(help="The encoder, as for classify; not needed for features only.")] = ""
    device: Device = None  # repeated here, because cyclopts looks up the types in this module
    precision: Precision = None
    second: Annotated[list[str] | None, Many, Parameter(help="Additional encoders that heads need.")] = None

    @property
    def files(self) -> list[str]:
        """The files and folders of the models."""
        return model_files(self.model, *(self.second or ()))

    def load_second(self, console: Console) -> dict[str, Encoder]:
        """Load the additional encoders, by name."""
        return {name: self.load(console, name) for name in self.second or ()}


@Parameter(name="*", group=TASKS)
@dataclass(frozen=True)
class Places:
    """Where tasks are read from."""

    data: Annotated[str, Parameter(help="Folder or URL of the files of tasks.")] = "."
    labels: Annotated[
        Path | None,
        Parameter(help="A label file for tasks given as images or features; default: the prompts' classes."),
    ] = None
    image_column: ImageColumn = "image"
    label_column: LabelColumn = "label"

    def open(self, tasks: Sequence[str], texts: Sequence[PromptFile]) -> list[tuple[Task, Place]]:
        """Open tasks; those given as images or features get the classes of `labels` or of the first texts."""
        from rag_clip.evaluation.image_tasks import open_tasks
        from rag_clip.files.labels import read_labels

        if not tasks:
            raise ValueError("there is nothing to evaluate on; give labelled images, features or tasks")
        classes = read_labels(self.labels) if self.labels else texts[0].prompts.labels if texts else None
        columns = {"image_column": self.image_column, "label_column": self.label_column}
        opened: list[tuple[Task, Place]] = open_tasks(tasks, folder=self.data, labels=classes, **columns)
        return opened


@Parameter(name="*", group=HEAD)
@dataclass(frozen=True)
class Heads:
    """Which heads are evaluated beside the texts, and on which support images they are built."""

    head: Annotated[list[str] | None, Many, Parameter(help="Also evaluate these heads with each prompts file.")] = None
    support: Annotated[Path | None, Parameter(help="A support file, or a file of evidence, for the heads.")] = None
    head_options: Annotated[Path | None, Parameter(help="A TOML file with settings, one table per head.")] = None
    shots: Annotated[
        list[int | Literal["all"]] | None,
        Many,
        Parameter(help="Numbers of images per class to draw for the heads, or all."),
    ] = None
    seeds: Annotated[int, Parameter(help="How often shots are drawn.")] = 3
    validate: Annotated[
        bool, Parameter(negative=(), help="Hold out a fifth of the shots, and choose settings on it.")
    ] = False
    validation: Annotated[Path | None, Parameter(help="A support file on which heads may choose settings.")] = None
    floor: Annotated[
        bool, Parameter(help="Limit the weight of a head, down to none, to what held-out images justify.")
    ] = True

    @property
    def files(self) -> list[Path | None]:
        """The input files."""
        return [self.support, self.head_options, self.validation]

    def choose(self) -> tuple[list[HeadChoice], FewShot | None]:
        """Return the heads to build on the support file, and those to build on shots."""
        from rag_clip.classifiers.heads import read_options
        from rag_clip.evaluation.head_choices import choose_heads
        from rag_clip.evaluation.shot_runs import FewShot

        names = tuple(self.head or ())
        options = read_options(self.head_options) if self.head_options else {}
        few_shot = (
            FewShot(names, tuple(self.shots), self.seeds, options, self.validate, self.floor) if self.shots else None
        )
        if self.validate and not few_shot:
            raise ValueError("--validate holds out a fifth of the shots; add --shots, or use --validation FILE instead")
        if few_shot and not self.support:
            return [], few_shot
        chosen = choose_heads(
            names, support=self.support, options=options, validation=self.validation, floor=self.floor
        )
        return chosen, few_shot


ENCODER, PLACES, HEADS = AnyEncoder(), Places(), Heads()
