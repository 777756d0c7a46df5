"""A task of features with a train and a test split, that the tests of few shots share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rag_clip.evaluation.image_tasks import ImageTask, image_task, open_tasks

WIDTH, NAMES = 8, ("cat", "dog", "owl")


def features_file(path: Path, *, images: int, seed: int) -> Path:
    """Write `images` noisy features of each of three classes, and text that takes dogs for owls."""
    random, centres = np.random.default_rng(seed), np.eye(3, WIDTH)
    label = np.repeat(np.arange(3), images)
    image = centres[label] + 0.6 * random.normal(size=(len(label), WIDTH))
    np.savez(path, image=image, label=label, classes=NAMES, text=centres[[0, 2, 1]], templates=["a {}"], scale=20.0)
    return path


def pets(folder: Path) -> ImageTask:
    """Return a task with a train and a test split of features."""
    features_file(folder / "train.npz", images=12, seed=0)
    features_file(folder / "test.npz", images=20, seed=1)
    (folder / "pets.toml").write_text(
        f'name = "Pets"\nmetric = "accuracy"\nlabels = {list(NAMES)}\n'
        'splits = { train = "train.npz", test = "test.npz" }\n'
    )
    return image_task(*open_tasks([folder / "pets.toml"], folder=folder)[0])
