"""The verb `rag-clip demo`: all steps on the bundled micro world."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.run import SHOWN, Force, Shown, run


def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder for the files, the index and the report.")] = Path("rag-clip-demo"),
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Run index, enhance and classify on the bundled micro world; compare templates, retrieval and its control."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.models.open_clip import load_encoder
        from rag_clip.pipelines.demo import check_pages, run_demo

        check_outputs([(out, "demo")], force=force)
        check_pages(out, force=force)
        with console.loading("the model demo"):
            encoder = load_encoder("demo", device="cpu")
        summary = run_demo(out, encoder=encoder, force=force, report=console.report)
        console.say(summary.facts)
        console.table("top-1 accuracy, %", summary.cells())
        console.stages(summary.seconds)
        console.say(f"report: {summary.report}")
        console.say(f"next: rag-clip serve {quote(str(out))} --model demo")
        return summary

    return run(job, shown)
