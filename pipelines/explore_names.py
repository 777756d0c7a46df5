"""Write the names that were discovered as one page, with the images that speak for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import holding
from rag_clip.given import AnyImages, image_files, to_images
from rag_clip.images.items import read_image
from rag_clip.images.rows import ImageFile, read_items
from rag_clip.models.decode import ImageError, decode_image
from rag_clip.progress import Progress
from rag_clip.progress_line import on_screen
from rag_clip.report.examples import data_uri
from rag_clip.report.page import render_page

from .discover import DiscoverSummary
from .explore import check_page_path
from .running import Running
from .unlabelled import Unlabelled


@on_screen.job()
def explore_names(
    found: DiscoverSummary,
    images: AnyImages | Unlabelled,
    *,
    output: str | Path,
    running: Running = Running(),  # noqa: B008
) -> Path:
    """Write a page of discovered names: images and captions of each, how many images it explains, and takes from whom.

    found: what `discover` returned.
    images: the same images.
    output: the `.html` file, one file without links to others.
    running: `force` and progress.

    Returns the path. Raises ValueError for another suffix, for images with fewer rows, and for an output that is an
    input or not of an earlier call (without `force`); OSError if it cannot be written, and BusyError if another process
    writes it.
    """
    output = check_page_path(Path(output))
    given = to_images(images.images if isinstance(images, Unlabelled) else images)
    progress = Progress(report=running.report)
    with holding([(output, "discover")], inputs=[image_files(given), found.output], force=running.force):
        pictures = _pictures(given.open(), {row for name in found.names for row in name.rows}, progress)
        page = render_page(
            "names.html",
            "discover",
            title="Names found for images",
            found=found,
            pictures=pictures,
            widest=max((name.images for name in found.names), default=0.0),
            total=found.rows - found.failed if found.rejected is None else found.rejected,
        )
        with disk_errors(output), replacing(output) as partial:
            partial.write_text(page, encoding="utf-8")
    return output


def _pictures(files: Iterable[ImageFile], rows: set[int], progress: Progress) -> Mapping[int, str]:
    """Return images by row, from 0 over all files, as data URIs; '' for those that cannot be read any more."""
    pictures: dict[int, str] = {}
    advance, before, wanted = progress.counting("pictures", len(rows), unit="images"), 0, sorted(rows)
    for file in files:
        for row in [row for row in wanted if before <= row < before + file.rows]:
            try:
                item = next(read_items(file, [1], start=row - before))[0]
                pictures[row] = data_uri(decode_image(read_image(item)))
            except (OSError, ImageError):
                pictures[row] = ""
            advance(1)
        before += file.rows
    if wanted and wanted[-1] >= before:
        raise ValueError(f"the names are of row {wanted[-1]}, and the images have {before}; give the same images")
    return pictures
