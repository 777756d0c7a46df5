"""What went wrong: bad input or a bad world, whose sentence is the answer, or a fault of ours, whose trace is."""

from __future__ import annotations

import sys

from rag_clip.machine import lacks

# An error of ours can only come from a module that is loaded; loading torch to explain a typo takes seconds.
OURS = (
    ("rag_clip.atomic", "BusyError"),
    ("rag_clip.encoder", "EncoderError"),
    ("rag_clip.store", "StoreError"),
    ("rag_clip.pipelines.download", "DownloadError"),
    ("rag_clip.pipelines.imaging.decoding", "DecodeError"),
)


def explain(error: Exception) -> str | None:
    """Return what to say of an error in one line, None for a fault of ours.

    Bad input is a ValueError or an error type of ours, a bad world an OSError; what a machine lacks comes in any type.
    """
    lacking = lacks(error)
    if lacking:
        return _line(lacking)
    if isinstance(error, UnicodeEncodeError):
        shown = error.object[max(0, error.start - 20) : error.end + 20]
        return f"the name or text {shown!a} is no Unicode at character {error.start}; rename the file, or mend the text"
    loaded = tuple(getattr(sys.modules[module], name) for module, name in OURS if module in sys.modules)
    return _line(str(error)) if isinstance(error, (ValueError, OSError, *loaded)) else None


def _line(message: str) -> str:
    return "; ".join(line.strip() for line in message.splitlines() if line.strip())
