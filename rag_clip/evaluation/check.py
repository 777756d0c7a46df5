"""Problems that would stop an evaluation, found before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rag_clip.classifiers.zero_shot import check_prompts_encoder
from rag_clip.data import Fingerprint
from rag_clip.display import counted
from rag_clip.evaluation.head_choices import HeadChoice
from rag_clip.evaluation.image_tasks import read_image_labels
from rag_clip.evaluation.runs import PromptFile
from rag_clip.evaluation.shot_runs import ALL, FewShot
from rag_clip.evaluation.task import Role, Task, task_labels
from rag_clip.evaluation.task_files import check_task, count_images
from rag_clip.files.locations import Place
from rag_clip.files.support import check_support_labels, read_support

SHOWN = 12


def check_evaluation(
    tasks: Sequence[tuple[Task, Place]],
    *,
    texts: Sequence[PromptFile] = (),
    heads: Sequence[HeadChoice] = (),
    few_shot: FewShot | None = None,
    encoder: Fingerprint | None = None,
) -> tuple[str, ...]:
    """Return the problems of an evaluation, in words: missing files and columns, wrong labels and counts.

    tasks: the tasks, each with the folder of its files.
    texts: the prompts files to measure.
    heads: the heads to measure, with their support files.
    few_shot: if given, classes with too few images for it are problems.
    encoder: if given, prompts and support files made with another encoder are problems.
    """
    shots = (f"{task.name}: {problem}" for task, folder in tasks for problem in _shots(task, folder, few_shot))
    return (*_problems(tasks, texts, heads, encoder), *shots)


def _problems(
    tasks: Sequence[tuple[Task, Place]],
    texts: Sequence[PromptFile],
    heads: Sequence[HeadChoice],
    encoder: Fingerprint | None,
) -> Iterator[str]:
    for task, folder in tasks:
        yield from (f"{task.name}: {problem}" for problem in check_task(task, folder, read_labels=read_image_labels))
        try:
            names = set(task_labels(task, folder).names)
        except (OSError, ValueError):
            continue  # check_task has reported it
        if texts and not any(set(texts_file.prompts.labels.names) == names for texts_file in texts):
            yield f"{task.name}: no prompts file has its {len(names)} classes; enhance its label set"
    for texts_file in texts:
        try:
            if encoder is not None:
                check_prompts_encoder(texts_file.prompts, encoder)
        except ValueError as error:
            yield f"{texts_file.path}: {error}"
    for path in dict.fromkeys(path for head in heads for path in (head.support, head.validation) if path):
        try:
            support = read_support(path, encoder=encoder)
            for labels in {
                frozenset(texts_file.prompts.labels.names): texts_file.prompts.labels for texts_file in texts
            }.values():
                check_support_labels(path, support, labels)
        except (OSError, ValueError) as error:
            yield str(error) if str(path) in str(error) else f"{path}: {error}"


def _shots(task: Task, folder: Place, few_shot: FewShot | None) -> Iterator[str]:
    if few_shot is None:
        return
    role: Role = "train" if "train" in task.splits else "test"
    if role == "test" and ALL in few_shot.shots:
        yield "no train split, from which all images would be drawn; name one, or give a number of shots"
    if role == "train" and Path(task.path("train", folder)).resolve() == Path(task.path("test", folder)).resolve():
        yield f"the train split is the test split, {task.path('train', folder)}; draw shots from other images"
    try:
        images = count_images(task, folder, role, read_labels=read_image_labels)
    except (OSError, ValueError):
        return  # check_task has reported it
    most = max(few_shot.counts, default=0)
    short = [f"{name!r} ({count})" for name, count in images.items() if 0 < count < most + (role == "test")]
    if short:
        more = f" and {len(short) - SHOWN} more" if len(short) > SHOWN else ""
        lack = (
            f"fewer than {most} images to draw" if role == "train" else f"no image left beside {counted(most, 'shot')}"
        )
        yield f"{role}: {counted(len(short), 'class')} with {lack}: {', '.join(short[:SHOWN])}{more}"
