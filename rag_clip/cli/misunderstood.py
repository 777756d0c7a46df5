"""What is said of a command that was not understood: one sentence, with all that is missing and an example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError
from rich.text import Text

from rag_clip.cli.examples import EXAMPLES

PLACEHOLDER = "x"


def explain_misunderstood(error: CycloptsError, app: App) -> Text:
    """Return the line for standard error."""
    verb = " ".join(error.command_chain or ())
    name = f"rag-clip {verb}".strip()
    if isinstance(error, MissingArgumentError):
        lacking = list(_missing(error, app))
        what = " and ".join([", ".join(lacking[:-1]), lacking[-1]] if lacking[1:] else lacking)
        said = f"{what} {'are' if lacking[1:] else 'is'} missing"
        advice = f"for example: {EXAMPLES[verb]}" if verb in EXAMPLES else f"see {name} --help"
    elif isinstance(error, UnusedCliTokensError):
        said, advice = f"{' '.join(error.unused_tokens or ())!r} is more than it takes", f"see {name} --help"
    else:
        said, advice = str(error).strip().rstrip(",. "), f"see {name} --help"
        said = said[:1].lower() + said[1:]
    return Text(f"{name}: {said}{'' if said.endswith('?') else ';'} {advice}")


def _missing(error: CycloptsError, app: App) -> Iterator[str]:
    """Yield what is missing: what the parser says of the command with the rest filled in."""
    tokens: Sequence[str] = error.root_input_tokens or []
    while isinstance(error, MissingArgumentError) and error.argument is not None:
        if error.keyword is not None:  # the option is there, its value is not
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
