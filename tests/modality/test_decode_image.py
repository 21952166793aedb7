import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from oboro.modality.decode_image import MAX_PIXELS, decode_file, fit, fit_all

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def decoded(tmp_path, image, name="a.png", channels=3, resolution=(8, 8), **options):
    image.save(tmp_path / name, **options)
    return decode_file(tmp_path / name, channels, resolution).transpose(1, 2, 0)


def test_rgb_of_the_right_size_is_unchanged(tmp_path):
    assert np.array_equal(decoded(tmp_path, Image.fromarray(RGB)), RGB)
    assert np.array_equal(decoded(tmp_path, Image.fromarray(RGB), "a.webp", lossless=True), RGB)


def test_grey_fills_three_channels_and_colour_becomes_luma(tmp_path):
    grey = Image.fromarray(RGB[..., 0])
    assert np.array_equal(decoded(tmp_path, grey), np.repeat(RGB[..., :1], 3, axis=2))
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decoded(tmp_path, Image.fromarray(RGB), channels=1)[..., 0] - luma).max() <= 1


def test_black_and_white_uses_the_whole_range(tmp_path):
    assert set(np.unique(decoded(tmp_path, Image.fromarray(RGB[..., 0] > 127), channels=1))) == {0, 255}


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = decoded(tmp_path, Image.fromarray(deep), channels=1)[..., 0]
    assert np.array_equal(found, np.round(deep / 257).astype(np.uint8))


def test_transparency_is_laid_on_white(tmp_path):
    alpha = RNG.integers(0, 256, (8, 8, 1), dtype=np.uint8)
    expected = RGB * (alpha / 255) + 255 * (1 - alpha / 255)
    rgba = Image.fromarray(np.concatenate([RGB, alpha], axis=2))
    assert np.abs(decoded(tmp_path, rgba) - expected).max() <= 1
    assert np.array_equal(decoded(tmp_path, rgba, channels=4), np.concatenate([RGB, alpha], axis=2))
    la = Image.fromarray(np.concatenate([RGB[..., :1], alpha], axis=2), "LA")
    assert np.abs(decoded(tmp_path, la, channels=1) - expected[..., :1]).max() <= 1


def test_palette_with_and_without_transparency(tmp_path):
    palette = Image.new("P", (8, 8))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([i % 2 for i in range(64)])
    assert decoded(tmp_path, palette)[0, :2].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert decoded(tmp_path, palette, transparency=0)[0, :2].tolist() == [[255, 255, 255], [0, 0, 255]]


def test_cmyk_jpeg_keeps_its_colour(tmp_path):
    flat = Image.new("RGB", (8, 8), (200, 40, 90)).convert("CMYK")
    assert np.abs(decoded(tmp_path, flat, "a.jpg", quality=95).astype(int) - [200, 40, 90]).max() <= 4


@pytest.mark.parametrize(("orientation", "undo"), [(3, 2), (6, -1), (8, 1)])  # quarter turns counterclockwise
def test_exif_orientation_is_honoured(tmp_path, orientation, undo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.new("RGB", (16, 8))
    stored.paste((255, 255, 255), (0, 0, 8, 4))  # a white quarter at the top left
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = np.rot90(np.asarray(stored), undo)
    found = decode_file(tmp_path / "a.jpg", 3, upright.shape[:2]).transpose(1, 2, 0)
    assert np.abs(found.astype(int) - upright).mean() < 4


def test_short_side_fits_and_the_centre_is_kept():
    wide = np.zeros((8, 24, 1), np.uint8)
    wide[:, 8:16] = 255
    assert (fit(Image.fromarray(wide[..., 0]), 1, (8, 8)) == 255).all()
    tall = wide.transpose(1, 0, 2)
    assert (fit(Image.fromarray(tall[..., 0]), 1, (8, 8)) == 255).all()
    assert fit(Image.fromarray(wide[..., 0]), 1, (4, 10)).shape == (1, 4, 10)


def test_resizing_is_antialiased():
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    found = fit(Image.fromarray(board), 1, (8, 8))[0, 1:-1, 1:-1]
    assert np.abs(found.astype(int) - 127.5).max() < 3  # without antialiasing: 0 and 255


def test_arrays_are_decoded_as_files_are():
    images = RNG.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    same = np.concatenate(list(fit_all(images, 3, (8, 8), block=2)))
    assert np.array_equal(same, images.transpose(0, 3, 1, 2))
    other = np.concatenate(list(fit_all(images, 1, (4, 4), block=2)))
    assert np.array_equal(other, np.stack([fit(Image.fromarray(image), 1, (4, 4)) for image in images]))


def test_bomb_is_refused_on_its_header(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    side = int(MAX_PIXELS**0.5) + 1
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    with pytest.raises(ValueError, match="pixels are more than"):
        decode_file(tmp_path / "bomb.png", 3, (8, 8))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_truncated_files_are_not_half_decoded(tmp_path, name):
    file = io.BytesIO()
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name[2:]])
    (tmp_path / name).write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises((OSError, SyntaxError, ValueError)):
        decode_file(tmp_path / name, 3, (8, 8))


def test_only_the_three_formats_are_opened(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").rename(tmp_path / "a.png")
    with pytest.raises(OSError, match="cannot identify"):
        decode_file(tmp_path / "a.png", 3, (8, 8))
