import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from oboro.modality import decode_image
from oboro.modality.decode_image import SUFFIXES, fit, fit_all, load_image

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def decode_file(file, channels, resolution):
    """As data sources do it."""
    return fit(load_image(file), channels, resolution)


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


def test_large_pictures_are_reduced_and_stay_what_they_are(tmp_path, monkeypatch):
    """With a bound of 32 × 32 pixels: halves of 48 × 64 are white on a black ground, upright after EXIF's turn."""
    image = np.zeros((48, 64), np.uint8)
    image[:, 32:] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    grey = Image.fromarray(image)
    alpha = Image.merge(
        "LA", (Image.new("L", grey.size), Image.fromarray(255 - image))
    )  # black, white where it is clear
    cases = {
        "a.png": grey,
        "a.jpg": grey,
        "b.jpg": grey.convert("CMYK"),
        "a.tif": Image.fromarray(image.astype(np.uint16) * 257),
        "b.tif": Image.fromarray(image.astype(np.float32) / 255),
        "b.png": grey.convert("P"),
        "c.png": grey.convert("1"),
        "d.png": alpha,
    }
    whole = {}
    for name, picture in cases.items():
        picture.save(tmp_path / name, exif=exif)
        whole[name] = decode_file(tmp_path / name, 1, (12, 16))
    monkeypatch.setattr(decode_image, "MAX_PIXELS", 32 * 32)
    for name in cases:
        reduced = decode_file(tmp_path / name, 1, (12, 16))
        assert load_image(tmp_path / name).size in ((32, 24), (22, 16)), name
        assert np.abs(reduced.astype(int) - whole[name]).mean() < 6 and whole[name][0, 0].tolist()[:4] == [255] * 4, (
            name
        )


def header_of_png(side):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b""))


def header_of_jpeg(width, height, progressive):
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", progressive=progressive)
    mark = b"\xff\xc2" if progressive else b"\xff\xc0"
    start = file.getvalue().index(mark) + 5
    return file.getvalue()[:start] + struct.pack(">HH", height, width) + file.getvalue()[start + 4 :]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bomb.png", header_of_png(14_000)),
        ("bomb.jpg", header_of_jpeg(65_000, 65_000, progressive=False)),
        ("bomb.jpg", header_of_jpeg(14_000, 14_000, progressive=True)),
    ],
)
def test_what_would_need_more_memory_is_refused_on_its_header(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"more than .*; make it smaller"):
        decode_file(tmp_path / name, 3, (8, 8))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_truncated_files_are_not_half_decoded(tmp_path, name):
    file = io.BytesIO()
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name[2:]])
    (tmp_path / name).write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises((OSError, SyntaxError, ValueError)):
        decode_file(tmp_path / name, 3, (8, 8))


def test_text_of_any_suffix_is_no_picture(tmp_path):
    for suffix in SUFFIXES:
        path = tmp_path / f"a{suffix}"
        path.write_text("This is a text and no picture at all. " * 50)
        with pytest.raises(Exception):  # noqa: B017 - Pillow raises what it likes
            decode_file(path, 3, (8, 8))


def test_all_formats_that_pillow_writes_are_read(tmp_path):
    """Lossless ones exactly; common ones under a wrong name, too."""
    lossy = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".avifs", ".icns")
    read = set()
    for suffix in SUFFIXES:
        for mode in ("RGB", "1"):
            picture = Image.fromarray(RGB).convert(mode)
            try:
                picture.save(tmp_path / f"a{suffix}")
            except (OSError, ValueError, KeyError):
                continue
            found = decode_file(tmp_path / f"a{suffix}", 3, (8, 8)).transpose(1, 2, 0)
            assert suffix in lossy or np.array_equal(found, np.asarray(picture.convert("RGB"))), suffix
            read.add(suffix)
            break
    assert {".png", ".gif", ".tif", ".bmp", ".ppm", ".pgm", ".tga", ".jp2", ".ico", ".qoi", ".webp", ".jpg"} <= read
    (tmp_path / "a.tif").rename(tmp_path / "b.png")
    assert np.array_equal(decode_file(tmp_path / "b.png", 3, (8, 8)).transpose(1, 2, 0), RGB)


def test_of_several_frames_the_first_is_taken(tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (40, 200)]
    for name in ("a.gif", "a.tif", "a.webp", "a.png"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **({"lossless": True} if "webp" in name else {})
        )
        assert (decode_file(tmp_path / name, 1, (8, 8)) == 40).all(), name


def test_deep_grey_is_scaled_and_never_clipped(tmp_path):
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    for name, pixels in {
        "a.png": np.rint(ramp * 65535).astype(np.uint16),
        "a.tif": np.rint(ramp * 65535).astype(np.uint16),
        "b.tif": np.rint(ramp * 65535).astype(np.int32),
        "c.tif": ramp.astype(np.float32),
        "a.pfm": ramp.astype(np.float32),
    }.items():
        assert np.abs(decoded(tmp_path, Image.fromarray(pixels), name, channels=1)[..., 0] - ramp * 255).max() <= 1, (
            name
        )
    for name, pixels in {
        "d.tif": np.full((8, 8), 70000, np.int32),
        "e.tif": np.full((8, 8), -1, np.int32),
        "f.tif": (ramp * 255).astype(np.float32),
        "g.tif": np.full((8, 8), np.nan, np.float32),
    }.items():
        with pytest.raises(ValueError, match=r"its numbers go from .* to .*; save it with 8 bits, or from 0 to "):
            decoded(tmp_path, Image.fromarray(pixels), name, channels=1)
