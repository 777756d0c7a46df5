"""The base class of our errors, and clear messages when a machine runs out of memory, disk, file handles or threads."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# For these, libraries raise a bare RuntimeError, an ImportError or their own type, with the system's message in it.
_OF_RUST = re.compile(r"\(os error (\d+)\)")
_OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|failed to map segment|std::bad_alloc|bad allocation",
    re.IGNORECASE,
)
CURES = {
    errno.ENOSPC: "make room and run again; what is finished is kept",
    errno.EDQUOT: "make room and run again; what is finished is kept",
    errno.EFBIG: "the file may not grow so large here (ulimit -f); name another place",
    errno.EMFILE: "allow more open files (ulimit -n 4096), or give fewer --workers",
    errno.ENFILE: "allow more open files, or close other programs",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EROFS: "it cannot be written to; name another place",
}
LONGEST = 1000  # characters of an error message
MORE_MEMORY = (
    "close other programs, or ask for less at once (a smaller --batch-size, fewer --workers); what is finished is kept"
)


class RagClipError(Exception):
    """An error caused by the user or the machine; its message is one sentence: what was wrong, found, and what to do.

    Bad arguments and bad files raise ValueError, system errors OSError, as usual in Python.
    """


def system_error(error: BaseException) -> OSError | None:
    """Return the OSError behind an error, also where a library such as polars wraps it in its own type; else None."""
    if isinstance(error, OSError):
        return error
    found = _OF_RUST.search(str(error))
    if found:
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE)) if "Too many open files" in str(error) else None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Re-raise system errors while `path` is written, whatever their type, as an OSError that names the path."""
    try:
        yield
    except Exception as error:
        system = system_error(error)
        if system is None:
            raise
        raise OSError(system.errno, f"cannot write {path} ({system}); make room, or name another file") from error


def lacks(error: BaseException) -> str | None:
    """Return a sentence on what the machine ran out of and what to do; None for other errors."""
    words = " ".join(str(error).split())
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ImportError) and _OF_MEMORY.search(words)):
        where = "the device's memory" if re.search("CUDA|MPS|HIP", words) else "memory"
        return f"{where} ran out{f' ({words[:160]})' if words else ''}; {MORE_MEMORY}"
    if isinstance(error, RuntimeError) and "can't start new thread" in words:
        return "no further thread can be started; allow more processes (ulimit -u), or give fewer --workers"
    system = system_error(error)
    if system is None or system.errno not in CURES:
        return None
    said = words if system is error else f"{system}"
    if system.errno in (errno.EMFILE, errno.ENFILE):
        said = re.sub(r"; make room[^;]*", "", said)  # what every failed write advises
    return said if "make room" in said or "name another" in said else f"{said}; {CURES[system.errno]}"


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
