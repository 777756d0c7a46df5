"""What keeps an evaluation from running, found before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rag_clip.classifiers.zero_shot import check_prompts_encoder
from rag_clip.data import Fingerprint
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
    """Return the problems in words: files, columns, labels and counts of the tasks, and what does not fit them.

    With `few_shot`, classes that have too few images for it are problems; with `encoder`, prompts and support files
    that were made with another.
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
            continue  # check_task has said so
        if texts and not any(set(one.prompts.labels.names) == names for one in texts):
            yield f"{task.name}: no prompts file has its {len(names)} classes; enhance its label set"
    for one in texts:
        try:
            if encoder is not None:
                check_prompts_encoder(one.prompts, encoder)
        except ValueError as error:
            yield f"{one.path}: {error}"
    for path in dict.fromkeys(path for head in heads for path in (head.support, head.validation) if path):
        try:
            held = read_support(path, encoder=encoder)
            for labels in {frozenset(one.prompts.labels.names): one.prompts.labels for one in texts}.values():
                check_support_labels(path, held, labels)
        except (OSError, ValueError) as error:
            yield str(error) if str(path) in str(error) else f"{path}: {error}"


def _shots(task: Task, folder: Place, few_shot: FewShot | None) -> Iterator[str]:
    if few_shot is None:
        return
    role: Role = "train" if "train" in task.splits else "test"
    if role == "test" and ALL in few_shot.shots:
        yield "there is no train split to take all images of; name one, or a number of shots"
    if role == "train" and Path(task.path("train", folder)).resolve() == Path(task.path("test", folder)).resolve():
        yield f"shots would be drawn from the images that test, {task.path('train', folder)}; split the file"
    try:
        held = count_images(task, folder, role, read_labels=read_image_labels)
    except (OSError, ValueError):
        return  # check_task has said so
    most = max(few_shot.counts, default=0)
    short = [f"{name!r} ({count})" for name, count in held.items() if 0 < count < most + (role == "test")]
    if short:
        more = f" and {len(short) - SHOWN} more" if len(short) > SHOWN else ""
        lack = f"fewer than {most} images to draw" if role == "train" else f"no image left beside {most} shots"
        yield f"{role}: {len(short)} classes have {lack}: {', '.join(short[:SHOWN])}{more}"
