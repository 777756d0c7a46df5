"""Write all classes of prompts as one page to explore."""

from __future__ import annotations

from pathlib import Path

from rag_clip.data import Prompts
from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import holding
from rag_clip.given import AnyEncoder, to_encoder, to_texts
from rag_clip.progress_line import on_screen
from rag_clip.report.explore import explore_page

from .running import Running


@on_screen.job()
def explore_prompts(
    prompts: Prompts | str | Path,
    *,
    output: str | Path,
    encoder: AnyEncoder | None = None,
    running: Running = Running(),  # noqa: B008
) -> Path:
    """Write a page with the texts and nearest classes of every class, to search and read without a server.

    prompts: the prompts, or their file.
    output: the `.html` file, one file without links to others.
    encoder: an encoder or the name of a model; by default the one that the prompts record.
    running: `force` and progress.

    Returns the path. Raises ValueError for another suffix, and for an output that is not of an earlier call (without
    `force`); OSError if it cannot be written, and BusyError if another process writes it.
    """
    output = check_page_path(Path(output))
    texts = to_texts(prompts)
    read = [prompts if isinstance(prompts, str | Path) else None]
    with holding([(output, "enhance")], inputs=read, force=running.force):
        encoder = to_encoder(encoder, recorded=texts.recorded.encoder)
        page = explore_page(texts, encoder, report=running.report)
        with disk_errors(output), replacing(output) as partial:
            partial.write_text(page, encoding="utf-8")
    return output


def check_page_path(path: Path) -> Path:
    """Return the path of a page; raises ValueError for another suffix than .html."""
    if path.suffix.lower() != ".html":
        raise ValueError(f"{path} has the suffix {path.suffix!r}; a page is an .html file")
    return path
