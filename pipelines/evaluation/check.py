"""What keeps an evaluation from running, found before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rag_clip.data import Fingerprint
from rag_clip.evaluate.task import Task, task_labels
from rag_clip.evaluate.task_files import check_task
from rag_clip.support_file import read_support

from .runs import HeadChoice, PromptFile


def check_evaluation(
    tasks: Sequence[tuple[Task, Path]],
    *,
    texts: Sequence[PromptFile] = (),
    heads: Sequence[HeadChoice] = (),
    encoder: Fingerprint | None = None,
) -> tuple[str, ...]:
    """Return the problems in words: files, columns, labels and counts of the tasks, and what does not fit them.

    With `encoder`, prompts and support files that were made with another are problems.
    """
    return tuple(problem for problem in _problems(tasks, texts, heads, encoder))


def _problems(
    tasks: Sequence[tuple[Task, Path]],
    texts: Sequence[PromptFile],
    heads: Sequence[HeadChoice],
    encoder: Fingerprint | None,
) -> Iterator[str]:
    for task, folder in tasks:
        yield from (f"{task.name}: {problem}" for problem in check_task(task, folder))
        try:
            names = set(task_labels(task, folder).names)
        except (OSError, ValueError):
            continue  # check_task has said so
        if texts and not any(set(one.prompts.labels.names) == names for one in texts):
            yield f"{task.name}: no prompts file has its {len(names)} classes; enhance its label set"
    for one in texts:
        recorded = one.prompts.provenance.get("encoder")
        if encoder and recorded and not Fingerprint(**recorded).agrees_with(encoder):
            yield f"{one.path}: was made with {Fingerprint(**recorded)}, but the encoder is {encoder}"
    for path in dict.fromkeys(path for head in heads for path in (head.support, head.validation) if path):
        try:
            read_support(path, encoder=encoder)
        except (OSError, ValueError) as error:
            yield str(error) if str(path) in str(error) else f"{path}: {error}"
