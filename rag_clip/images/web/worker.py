"""The process that runs img2dataset: its settings as JSON in the one argument; it ends when standard input does.

img2dataset spawns processes of its own, which import this module again as `__mp_main__`: that is how each of them gets
the guard over what it may open.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading


def _end_with_parent() -> None:
    """Kill this process and all that it started once standard input is closed, however the parent ended."""
    while os.read(0, 1):  # sys.stdin would hold a lock that the interpreter needs to end
        pass
    if sys.platform == "win32":
        os._exit(1)
    os.killpg(0, signal.SIGKILL)


if __name__ in ("__main__", "__mp_main__"):
    from rag_clip.images.web.guard import install_guard

    settings = json.loads(sys.argv[1])
    install_guard(**settings["guard"])

if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    importlib.import_module("img2dataset").download(**settings["download"])  # an extra, absent where types are checked
