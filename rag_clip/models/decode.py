"""Decode image bytes to one RGB image, or fail with a one-line reason; memory is bounded before pixels are decoded.

PIL's process-wide pixel limit and the warning filters are neither read nor changed.
"""

from __future__ import annotations

import functools
import io
import math

import numpy as np
from PIL import Image, ImageFile, ImageOps, JpegImagePlugin

from rag_clip.errors import RagClipError

MAX_PIXELS = 36_000_000
REDUCED_SIDE = 1024
EXIF_ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")


class ImageError(RagClipError, ValueError):
    """An image that cannot be used; the message is one line."""


def decode_image(data: bytes, *, least_side: int = REDUCED_SIDE) -> Image.Image:
    """Decode image bytes to RGB: EXIF rotation applied, first frame, transparency laid on white, 16 bits scaled to 8.

    JPEGs are decoded at 1/2, 1/4 or 1/8 of their size as long as the shorter side keeps at least `REDUCED_SIDE`
    pixels, or `least_side` if both sides can be divided without a rest. HEIC needs the extra `heic`.

    Raises ImageError for anything truncated, empty or unknown, for 32-bit floats (no agreed range), and for more than
    `MAX_PIXELS` pixels to decode.
    """
    if not data:
        raise ImageError("the image is empty (zero bytes); copy or download it again")
    try:
        image = _open(data)
        _bound(image, least_side)
        image.load()
        return _to_rgb(_upright(image))
    except ImageError:
        raise
    except Exception as error:  # malformed files surface as almost any exception in PIL's parsers
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ImageError(f"the image cannot be decoded ({reason})") from error


def least_side_for(preprocess: object) -> int:
    """Return the `least_side` to decode with for a preprocess: its attribute of that name, or else `REDUCED_SIDE`."""
    return int(getattr(preprocess, "least_side", REDUCED_SIDE))


def runs_in_threads(preprocess: object) -> bool:
    """Return whether a preprocess may run in several threads at once: its attribute `threads`, or else False."""
    return bool(getattr(preprocess, "threads", False))


def image_size(data: bytes) -> tuple[int, int]:
    """Return width and height as stored, upright by EXIF, from the header alone; raises ImageError as decode_image."""
    try:
        image = _open(data)
        turned = image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"the image's header cannot be read ({type(error).__name__})") from error
    return (image.height, image.width) if turned else (image.width, image.height)


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes) -> ImageFile.ImageFile:
    # Image.open would apply its global pixel limit before a JPEG can be reduced.
    for name in _formats():
        factory, accept = Image.OPEN[name]
        if accept is None or accept(data[:16]) is not True:
            continue
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data)) if name == "JPEG" else factory(io.BytesIO(data), "")
    if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
        return _open_heic(data)
    raise ImageError(f"not an image of a known format (begins with {data[:8]!r}); known are {', '.join(_formats())}")


def _open_heic(data: bytes) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError("the image is HEIC, which needs the extra `heic`: pip install 'rag-clip[heic]'") from None
    heic: ImageFile.ImageFile = HeifImageFile(io.BytesIO(data), "")  # type: ignore[no-untyped-call,unused-ignore]
    return heic


def _bound(image: ImageFile.ImageFile, least_side: int) -> None:
    full = image.size
    image.draft(None, _reduced(full, least_side))
    # A progressive JPEG needs memory for the coefficients of all its pixels, even when decoded at a reduced size.
    size = full if image.info.get("progressive") else image.size
    if math.prod(size) > MAX_PIXELS:
        raise ImageError(
            f"the image is {full[0]} x {full[1]} pixels; at most {MAX_PIXELS:,} are decoded, make it smaller"
        )


def _reduced(size: tuple[int, int], least_side: int) -> tuple[int, int]:
    """Return the size to decode a JPEG at."""
    for times in (8, 4, 2):
        # A side that leaves a rest is rounded up, which shifts the content by up to half a pixel of the reduced image.
        least = REDUCED_SIDE if any(side % times for side in size) else least_side
        if min(size) // times >= least:
            return size[0] // times, size[1] // times
    return size


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) != 1  # exif_transpose copies an image that is upright
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # a good image may carry broken EXIF; it then has no known rotation
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("the image has 32-bit floats, whose range is unknown; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float32).clip(0, 65535)
        return Image.fromarray((values / 257 + 0.5).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
