"""Error messages: a sentence for errors of the input or the system; None for bugs, which get a traceback."""

from __future__ import annotations

from rag_clip.errors import RagClipError, lacks

LONGEST = 1000


def explain(error: Exception) -> str | None:
    """Return the message of an error as one line; None for a bug.

    Errors of the input are ValueError or RagClipError, errors of the system OSError; a lack of memory, disk, file
    handles or threads may have any type.
    """
    lacking = lacks(error)
    if lacking:
        return _line(lacking)
    if isinstance(error, UnicodeEncodeError):
        shown = error.object[max(0, error.start - 20) : error.end + 20]
        return f"the text {shown!a} is not valid Unicode at character {error.start}; rename the file, or fix the text"
    return _line(str(error)) if isinstance(error, RagClipError | ValueError | OSError) else None


def _line(message: str) -> str:
    """Return a message in one line; of a long one, as where it quotes a file's long value, the begin and the end."""
    line = "; ".join(line.strip() for line in message.splitlines() if line.strip())
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} ... {line[-LONGEST // 3 :]}"
