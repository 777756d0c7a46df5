"""What went wrong: bad input or a bad world, whose sentence is the answer, or a fault of ours, whose trace is."""

from __future__ import annotations

from rag_clip.errors import RagClipError, lacks

LONGEST = 1000


def explain(error: Exception) -> str | None:
    """Return what to say of an error in one line, None for a fault of ours.

    Bad input is a ValueError or a RagClipError, a bad world an OSError; what a machine lacks comes in any type.
    """
    lacking = lacks(error)
    if lacking:
        return _line(lacking)
    if isinstance(error, UnicodeEncodeError):
        shown = error.object[max(0, error.start - 20) : error.end + 20]
        return f"the name or text {shown!a} is no Unicode at character {error.start}; rename the file, or mend the text"
    return _line(str(error)) if isinstance(error, RagClipError | ValueError | OSError) else None


def _line(message: str) -> str:
    """Return a message in one line; of a long one, as where it quotes a file's long value, the begin and the end."""
    line = "; ".join(line.strip() for line in message.splitlines() if line.strip())
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} ... {line[-LONGEST // 3 :]}"
