"""An explanation as one self-contained HTML file: the image, bars for every text, and their sums."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

from rag_clip.classifiers.explain import ImageExplanation, LabelExplanation
from rag_clip.classifiers.patch_maps import HeatMap
from rag_clip.errors import disk_errors
from rag_clip.files.atomic import replacing
from rag_clip.files.outputs import check_outputs, holding
from rag_clip.models.decode import decode_image
from rag_clip.report.overlays import draw_heat
from rag_clip.report.page import render_page

PICTURE_SIDE = 384


def write_page(
    path: str | Path,
    *,
    label: LabelExplanation | None = None,
    image: ImageExplanation | None = None,
    picture: Image.Image | bytes | None = None,
    heat: HeatMap | None = None,
    count: int = 25,
    force: bool = False,
) -> None:
    """Write an explanation as a page.

    path: the page, which appears whole or not at all.
    label: the explanation of a class.
    image: the explanation of an image.
    picture: the image, or the bytes of its file, shown in the page.
    heat: where in the picture its class is, drawn over it.
    count: number of texts of a class that have their own row.
    force: replace a file that is not such a page.

    Raises ValueError for such a file without `force`, OSError if the page cannot be written, BusyError if another
    process is writing it, and ImageError for a broken picture.
    """
    path = Path(path)
    written = [(path, "explain")]
    check_outputs(written, force=force)
    page = _page(label, image, picture, heat, count)
    with holding(written, force=force), disk_errors(path), replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def explanation_html(
    *,
    label: LabelExplanation | None = None,
    image: ImageExplanation | None = None,
    picture: Image.Image | bytes | None = None,
    heat: HeatMap | None = None,
    count: int = 10,
) -> str:
    """Return the page for a notebook, in an iframe, so that its style does not change that of the notebook."""
    page = html.escape(_page(label, image, picture, heat, count))
    return f'<iframe srcdoc="{page}" style="width:100%;height:36rem;border:0"></iframe>'


def _page(
    label: LabelExplanation | None,
    image: ImageExplanation | None,
    picture: Image.Image | bytes | None,
    heat: HeatMap | None,
    count: int,
) -> str:
    title = f"Why this is {image.winner.label}" if image else f"What {label.label} is made of" if label else "Nothing"
    shown = _shown(picture) if image and picture is not None else None
    return render_page(
        "explanation.html",
        "explain",
        title=title,
        image=image,
        picture="" if shown is None else _png(shown),
        heated=_png(draw_heat(shown, heat.values)) if shown and heat else "",
        heat=heat,
        label=label,
        count=count,
    )


def _shown(picture: Image.Image | bytes) -> Image.Image:
    """Return a picture with sides of at most PICTURE_SIDE pixels."""
    shown = (decode_image(picture) if isinstance(picture, bytes) else picture).convert("RGB")
    shown.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    return shown


def _png(shown: Image.Image) -> str:
    """Return a picture as base64 of PNG."""
    buffer = io.BytesIO()
    shown.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
