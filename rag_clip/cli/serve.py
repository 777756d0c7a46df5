"""The verb `rag-clip serve`: a page and a REST service over the files of a folder."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rag_clip.cli.console import Console
from rag_clip.cli.run import SHOWN, Shown, run

LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    folder: Annotated[Path, Parameter(help="The folder to show; only files below it are read and written.")],
    /,
    *,
    model: Annotated[
        str | None, Parameter(help="demo, NAME:TAG, local-dir:FOLDER ...; by default what each file records.")
    ] = None,
    index: Annotated[
        str | None, Parameter(help="A further index, in a folder elsewhere or at the address of a Qdrant server.")
    ] = None,
    host: Annotated[
        str, Parameter(help="The address to listen at; any other than this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="The port; 0 for any that is free.")] = 8765,
    token: Annotated[
        str | None, Parameter(help="What each request must know; made and printed for other addresses if left out.")
    ] = None,
    shown: Shown = SHOWN,
) -> int:
    """Show the indexes, prompts, predictions and results of FOLDER in a browser, and answer REST requests."""

    def job(console: Console) -> object:
        try:
            import uvicorn

            from rag_clip.web.app import create_app
        except ImportError as error:
            raise ValueError(f"the page needs {error.name}; pip install 'rag-clip[web]'") from error
        if not 0 <= port < 65536:
            raise ValueError(f"port {port} does not exist; give 1 to 65535, or 0 for any that is free")
        local = host in LOCAL
        known = token or (None if local else secrets.token_urlsafe(24))
        application = create_app(folder, model=model, index=index, token=known, any_host=not local)
        config = uvicorn.Config(application, host=host, port=port, log_level="warning", server_header=False)
        try:
            socket = config.bind_socket()
        except SystemExit:
            raise OSError(f"port {port} of {host} cannot be opened; another program may use it: give --port") from None
        socket.listen(config.backlog)  # requests from now on wait for the server, which starts below
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{socket.getsockname()[1]}/"
        console.say(f"{folder} at {address}{f'?token={known}' if known else ''} (Ctrl-C ends it)")
        sys.stdout.flush()  # a pipe or a container's log would have it at the end
        uvicorn.Server(config).run(sockets=[socket])
        return {"folder": folder, "address": address}

    return run(job, shown)
