"""The message for a command that was not understood: one sentence with everything missing and an example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError
from rich.text import Text

from rag_clip.cli.examples import EXAMPLES

PLACEHOLDER = "x"


def explain_misunderstood(error: CycloptsError, app: App) -> Text:
    """Return the message for standard error."""
    verb = " ".join(error.command_chain or ())
    name = f"rag-clip {verb}".strip()
    if isinstance(error, MissingArgumentError):
        missing = list(_missing(error, app))
        names = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
        problem = f"{names} {'are' if missing[1:] else 'is'} missing"
        advice = f"for example: {EXAMPLES[verb]}" if verb in EXAMPLES else f"see {name} --help"
    elif isinstance(error, UnusedCliTokensError):
        problem, advice = f"unexpected argument {' '.join(error.unused_tokens or ())!r}", f"see {name} --help"
    else:
        problem, advice = str(error).strip().rstrip(",. "), f"see {name} --help"
        problem = problem[:1].lower() + problem[1:]
    return Text(f"{name}: {problem}{'' if problem.endswith('?') else ';'} {advice}")


def _missing(error: CycloptsError, app: App) -> Iterator[str]:
    """Yield every missing argument: fill in the one that the parser reports, and parse again."""
    tokens: Sequence[str] = error.root_input_tokens or []
    while isinstance(error, MissingArgumentError) and error.argument is not None:
        if error.keyword is not None:  # the option is given, but its value is missing
            yield f"the value of {error.keyword}"
            tokens = [*tokens, PLACEHOLDER]
        else:
            yield error.argument.name
            option = [error.argument.name] if error.argument.name.startswith("-") else []
            tokens = [*tokens, *option, PLACEHOLDER]
        try:
            app.parse_args(tokens, print_error=False, exit_on_error=False)
            return
        except CycloptsError as following:
            error = following
