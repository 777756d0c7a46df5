"""The command line: verbs that parse, call and print. Everything heavy is imported when a verb runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from cyclopts import App
from rich.console import Console as RichConsole

from rag_clip.cli.examples import EXIT_CODES, example_of
from rag_clip.cli.misunderstood import explain_misunderstood

VERBS: Mapping[str, str] = {
    "index build": "rag_clip.cli.index:build",
    "index embed": "rag_clip.cli.index:embed",
    "index load": "rag_clip.cli.index:load",
    "index info": "rag_clip.cli.index:info",
    "index check": "rag_clip.cli.index:check",
    "index copy": "rag_clip.cli.index:copy",
    "index snapshot": "rag_clip.cli.index:snapshot",
    "index restore": "rag_clip.cli.index:restore",
    "index plan": "rag_clip.cli.index:plan",
    "index images": "rag_clip.cli.images:images",
    "index download": "rag_clip.cli.images:download",
    "enhance": "rag_clip.cli.enhance:enhance",
    "classify": "rag_clip.cli.classify:classify",
    "heads": "rag_clip.cli.classify:heads",
    "learn": "rag_clip.cli.classify:learn",
    "evaluate": "rag_clip.cli.evaluate:evaluate",
    "explain": "rag_clip.cli.explain:explain",
    "discover": "rag_clip.cli.discover:discover",
    "segment": "rag_clip.cli.segment:segment",
    "adapt": "rag_clip.cli.adapt:adapt",
    "merge": "rag_clip.cli.merge:merge",
    "export": "rag_clip.cli.export:export",
    "search": "rag_clip.cli.search:search_index",
    "serve": "rag_clip.cli.serve:serve",
    "support shots": "rag_clip.cli.support:shots",
    "support retrieve": "rag_clip.cli.support:retrieve",
    "support corrections": "rag_clip.cli.support:corrections",
    "support merge": "rag_clip.cli.support:merge",
    "support synthesise": "rag_clip.cli.support:synthesise",
    "support evidence": "rag_clip.cli.support:evidence",
    "demo": "rag_clip.cli.demo:demo",
}
GROUPS: Mapping[str, str] = {
    "index": "Plan, build, inspect, check, copy and back up indexes.",
    "support": "Make support sets, example images of classes, for `classify --support`.",
}


def build_app(verbs: Mapping[str, str] = VERBS) -> App:
    """Return the command-line parser for a table of verbs."""
    app = App(
        name="rag-clip",
        help="Turn class names and a corpus of captions into an image classifier, and see its evidence.",
        help_epilogue=EXIT_CODES,
        error_console=RichConsole(stderr=True, soft_wrap=True, highlight=False),
        error_formatter=lambda error: explain_misunderstood(error, app),
    )
    groups = {name: App(name=name, help=text) for name, text in GROUPS.items()}
    for above in groups.values():
        app.command(above)
    for verb, home in verbs.items():
        group, _, name = verb.rpartition(" ")
        (groups[group] if group else app).command(home, name=name, help_epilogue=example_of(verb))
    app.register_install_completion_command(help="Install completion of verbs and options for your shell.")
    return app


app: App = build_app()


def main() -> None:
    """Run the command line; the exit code is the verb's."""
    try:
        code = app(result_action="return_value")
        if not code:
            sys.stdout.flush()
    except OSError as error:  # from printing help or the version; a verb handles its own errors
        from rag_clip.errors import explain

        sys.stderr.write(f"rag-clip: {explain(error)}\n")
        code = 1
    try:
        sys.stdout.flush()
    except OSError:  # told already; Python would try once more at its end, and exit with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
