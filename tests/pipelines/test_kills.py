"""Jobs killed at their changes to files: the same call then makes the same bytes, and leaves nothing else.

By default they are killed at every fifth change; the marker `slow` kills them at each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inputs.folders import TESTS
from inputs.pictures import colour_prompts, colours, picture, write_images
from rag_clip.files.prompts import write_prompts
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.support_shots import ShotSettings, support_from_shots
from rag_clip.testing import ToyEncoder

KILL_EVERYWHERE = """
import hashlib, json, os, shutil, sys, tempfile, traceback
from functools import partial
from pathlib import Path
from inputs.pictures import LightEncoder
from inputs.tasks import LABELS
from rag_clip.data import LabelSet
from rag_clip.evaluation.task import Task
from rag_clip.classifiers.reuse import Reuse
from rag_clip.pipelines.running import Running
from rag_clip.pipelines.classify import classify
from rag_clip.pipelines.enhance import enhance_labels
from rag_clip.pipelines.evaluate import evaluate
from rag_clip.evaluation.runs import read_prompt_files
from rag_clip.evaluation.image_tasks import image_task, open_tasks
from rag_clip.pipelines.support_shots import support_from_shots
from rag_clip.files.prompts import read_prompts
from rag_clip.prompts.recipe import load_recipe
from rag_clip.files.support import merge_support_files

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
OUT, ENCODER, LABELS = Path("out"), LightEncoder(), LabelSet(("red", "green", "blue"))


def run_classify(**more):
    prompts = read_prompts("p.parquet")
    classify(["in.parquet"], prompts=prompts, output="out/o.parquet", encoder=ENCODER, running=Running(0), **more)


def run_evaluate():
    [(task, folder)] = open_tasks(["in.parquet"], labels=LABELS)
    evaluate([image_task(task, folder)], prompts=read_prompt_files([Path("p.parquet")]), output="out/r.parquet",
             encoder=ENCODER, running=Running(0))


JOBS = {
    "classify": run_classify,
    "classify with features": partial(run_classify, reuse=Reuse(features_dir="out/f")),
    "evaluate": run_evaluate,
    "enhance": lambda: enhance_labels(LABELS, output="out/p.json", encoder=ENCODER, recipe=load_recipe("templates")),
    "support shots": lambda: support_from_shots(["in.parquet"], LABELS, output="out/s.parquet", encoder=ENCODER, k=1,
                                                validation_output="out/v.parquet", running=Running(0)),
    "support merge": lambda: merge_support_files(["s1.parquet", "s2.parquet"], "out/m.parquet"),
}


def run(job, kill_at=0):
    # In a child, for the threads of Arrow do not outlive a fork; returns its changes to files, None if it was killed.
    report = Path("changes.txt")
    child = os.fork()
    if not child:
        seen = [0]

        def count(event, arguments):
            written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or written:
                seen[0] += 1
                if seen[0] == kill_at:
                    os.kill(os.getpid(), 9)

        sys.addaudithook(count)
        try:
            job()
            changes = seen[0]
            report.write_text(str(changes))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return None
    if status:
        raise SystemExit("the job failed")
    return int(report.read_text())


def content():
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in sorted(OUT.rglob("*"))}


tempfile.gettempdir()  # it tries the folder with a file of its own
every, facts = int(sys.argv[1]), {}
for name, job in JOBS.items():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    changes = run(job)
    undisturbed, amiss = content(), []
    for place in range(1, changes + 1, every):
        shutil.rmtree(OUT)
        OUT.mkdir()
        killed = run(job, place) is None
        run(job)
        after = content()
        if not killed or after != undisturbed:
            amiss.append([place, killed, sorted(after.items() ^ undisturbed.items())])
    facts[name] = [sorted({path.split("/")[1] for path in undisturbed}), changes > 4, amiss]
print(json.dumps({"jobs": facts, "temporary": os.listdir(os.environ["TMPDIR"])}))
"""
OUTPUTS = {
    "classify": ["o.parquet"],
    "classify with features": ["f", "o.parquet"],
    "evaluate": ["r.parquet", "r.parquet.runs"],
    "enhance": ["p.json", "p.json.vectors"],
    "support shots": ["s.parquet", "v.parquet"],
    "support merge": ["m.parquet"],
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_a_change_to_files_a_job_is_finished_by_the_next_call(every: int, tmp_path: Path) -> None:
    names = colours(6)
    source = write_images(
        tmp_path / "in.parquet", [picture(name, size=(9 + row, 7)) for row, name in enumerate(names)], label=names
    )
    prompts = colour_prompts()
    write_prompts(prompts, tmp_path / "p.parquet")
    for number in (1, 2):
        support_from_shots(
            [source],
            prompts.labels,
            output=tmp_path / f"s{number}.parquet",
            encoder=ToyEncoder(),
            k=1,
            running=Running(0),
            settings=ShotSettings(seed=number),
        )
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"PYTHONPATH": str(TESTS), "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-c", KILL_EVERYWHERE, str(every)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    jobs = {job: [outputs, True, []] for job, outputs in OUTPUTS.items()}
    assert json.loads(done.stdout) == {"jobs": jobs, "temporary": []}
