"""The command line: verbs that parse, call and print. Everything heavy is imported when a verb runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console as RichConsole

from rag_clip.cli import images as images  # registers its verbs
from rag_clip.cli.classify import classify, heads, learn
from rag_clip.cli.console import Console
from rag_clip.cli.enhance import enhance
from rag_clip.cli.evaluate import evaluate
from rag_clip.cli.examples import add_examples
from rag_clip.cli.explain import explain
from rag_clip.cli.index import index_app
from rag_clip.cli.misunderstood import explain_misunderstood
from rag_clip.cli.run import SHOWN, Force, Shown, run
from rag_clip.cli.search import search_index
from rag_clip.cli.support import support_app

app: App = App(
    name="rag-clip",
    help="Turn class names and a corpus of captions into an image classifier, and see its evidence.",
    error_console=RichConsole(stderr=True, soft_wrap=True, highlight=False),
    error_formatter=lambda error: explain_misunderstood(error, app),
)
app.command(index_app)
app.command(enhance)
app.command(classify)
app.command(heads)
app.command(learn)
app.command(evaluate)
app.command(explain)
app.command(search_index, name="search")
app.command(support_app)


@app.command
def demo(
    *,
    out: Annotated[Path, Parameter(help="Folder for the files, the index and the report.")] = Path("rag-clip-demo"),
    force: Force = False,
    shown: Shown = SHOWN,
) -> int:
    """Run index, enhance and classify on the bundled world, and compare templates, retrieval and its control."""

    def job(console: Console) -> object:
        from rag_clip.files.outputs import check_outputs
        from rag_clip.models.open_clip import load_encoder
        from rag_clip.pipelines.demo import run_demo

        check_outputs([(out, "demo")], force=force)
        with console.loading("the model demo"):
            encoder = load_encoder("demo", device="cpu")
        summary = run_demo(out, encoder=encoder, force=force, report=console.report)
        console.say(summary.facts)
        console.table("top-1 accuracy, %", summary.cells())
        console.stages(summary.seconds)
        console.say(f"report: {summary.report}")
        return summary

    return run(job, shown)


add_examples(app)
app.register_install_completion_command(help="Install completion of verbs and options for your shell.")


def main() -> None:
    """Run the command line; the exit code is the verb's."""
    sys.exit(app(result_action="return_value"))
