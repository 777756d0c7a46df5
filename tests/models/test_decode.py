"""decode_image: what each kind of file becomes, and what is refused."""

import io
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from rag_clip.models.decode import MAX_PIXELS, ImageError, decode_image, image_size

CORNERS = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 250]]], np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def heic(image: Image.Image) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra `heic`")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer)
    return buffer.getvalue()


def test_heic_is_read_with_its_extra():
    data = heic(Image.new("RGB", (40, 30), (250, 0, 0)))
    image = decode_image(data)
    assert (image.size, image.mode, image_size(data)) == ((40, 30), "RGB", (40, 30))
    assert max(abs(np.asarray(image)[15, 20] - np.array([250, 0, 0]))) <= 3
    assert "HEIF" not in Image.OPEN, "PIL's own list of formats stays as it is"
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(data[: len(data) // 2])


def test_heic_without_its_extra_names_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"
    for read in (decode_image, image_size):
        with pytest.raises(ImageError, match=r"is HEIC, which needs the extra `heic`: pip install 'rag-clip\[heic\]'"):
            read(data)


def test_rgb_pixels_come_back_unchanged():
    image = decode_image(encoded(Image.fromarray(CORNERS)))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), CORNERS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM"])
def test_a_single_pixel_is_an_image_in_every_format(kind):
    image = decode_image(encoded(Image.new("RGB", (1, 1), "white"), kind))
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (1, 1), (255, 255, 255))


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned a quarter anticlockwise
    image = decode_image(encoded(Image.fromarray(CORNERS), exif=exif))
    np.testing.assert_array_equal(np.asarray(image), np.rot90(CORNERS, -1))


def test_broken_exif_leaves_the_image_as_it_is():
    image = decode_image(encoded(Image.fromarray(CORNERS), exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12"))
    np.testing.assert_array_equal(np.asarray(image), CORNERS)


def test_half_transparent_pixels_are_mixed_with_white():
    layer = Image.fromarray(np.array([[[0, 0, 0, 0], [0, 0, 0, 127], [0, 0, 0, 255]]], np.uint8))
    assert np.asarray(decode_image(encoded(layer)))[0, :, 0].tolist() == [255, 128, 0]


def test_transparent_palette_entries_become_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putdata([0, 1])
    image = decode_image(encoded(palette, transparency=0))
    assert np.asarray(image).tolist() == [[[255, 255, 255], [200, 0, 0]]]


def test_palette_transparency_given_as_bytes_raises_no_warning():
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putdata([0, 1])
    image = decode_image(encoded(palette, transparency=bytes([0, 255])))
    assert np.asarray(image).tolist() == [[[255, 255, 255], [200, 0, 0]]]


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert decode_image(data).getpixel((1, 1)) == (255, 0, 0)


def test_cmyk_becomes_rgb():
    image = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = np.asarray(image)[4, 4]
    assert (image.mode, red > 240, green < 15, blue < 15) == ("RGB", True, True, True)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    values = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    image = decode_image(encoded(Image.fromarray(values), kind))
    assert np.asarray(image)[0].tolist() == [[level] * 3 for level in (0, 0, 1, 128, 255)]


def test_grey_becomes_three_equal_channels():
    image = decode_image(encoded(Image.fromarray(np.array([[0, 77]], np.uint8))))
    assert np.asarray(image).tolist() == [[[0, 0, 0], [77, 77, 77]]]


def test_floats_are_refused_because_their_range_is_unknown():
    with pytest.raises(ImageError, match="32-bit floats"):
        decode_image(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))


def test_a_png_above_the_limit_is_refused_before_decoding():
    one_pixel = encoded(Image.new("L", (1, 1)))
    claim = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + one_pixel[24:29]
    header = one_pixel[:12] + claim + zlib.crc32(claim).to_bytes(4, "big") + one_pixel[33:]
    with pytest.raises(ImageError, match=f"20000 x 20000 pixels; at most {MAX_PIXELS:,}"):
        decode_image(header)


def test_a_wide_image_within_the_limit_is_decoded_whole():
    assert decode_image(encoded(Image.new("L", (20_000, 30)), "PNG")).size == (20_000, 30)


def test_a_large_jpeg_is_decoded_at_a_reduced_size():
    data = encoded(Image.new("L", (20_000, 9_000), 128), "JPEG", quality=10)
    image = decode_image(data)
    assert (image.mode, image.size, image.getpixel((9, 9))) == ("RGB", (2500, 1125), (128, 128, 128))


def test_a_progressive_jpeg_is_bounded_by_its_full_size():
    data = encoded(Image.new("L", (7_000, 6_000)), "JPEG", quality=10, progressive=True)
    with pytest.raises(ImageError, match="7000 x 6000 pixels"):
        decode_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_truncated_file_is_refused_in_one_line(kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    for length in (len(data) // 2, 20):
        with pytest.raises(ImageError, match=r"cannot be decoded|not an image") as caught:
            decode_image(data[:length])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>404 not found</html>", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image of a known format"),
        (b"\xff\xd8\xff", "cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
    ],
)
def test_what_is_not_an_image_is_refused_with_its_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode_image(data)


def test_no_process_wide_setting_changes():
    before = (Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    decode_image(encoded(Image.new("L", (10_000, 10_000)), "JPEG"))
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


def test_the_size_is_read_from_the_header_upright_and_unreduced():
    image = Image.new("RGB", (3000, 2400))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    assert image_size(stream.getvalue()) == (2400, 3000)
    assert decode_image(stream.getvalue()).size == (1200, 1500)


def test_the_size_of_what_is_no_image_is_refused():
    with pytest.raises(ImageError, match="not an image of a known format"):
        image_size(b"hello")
