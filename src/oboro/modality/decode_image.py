"""One image file of any format that Pillow reads, or one array of images, as uint8 (C, H, W) of the wanted channels and
resolution.

The picture is scaled so that it just covers the resolution and cropped at its centre, both in one antialiased Lanczos
resampling (Pillow), and clipped to 8 bits.
"""

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, JpegImagePlugin

Image.init()
# Read by another program (EPS: Ghostscript, which runs what it reads), on Windows alone, by a handler of one's own, or
# not at all.
_UNREAD = {"EPS", "MPEG", "WMF", "BUFR", "GRIB", "HDF5", "IPTC"}
FORMATS = tuple(sorted(name for name in Image.OPEN if name not in _UNREAD))
# What files of any name are tried as, so that a JPEG called .png is read. The others have weak marks or none, and text
# under a wrong name would become noise: they are read where the name says so.
_COMMON = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
USUAL = (".png", ".jpg", ".jpeg", ".webp")  # of generated pictures
_FORMAT_OF = {suffix: name for suffix, name in Image.registered_extensions().items() if name in FORMATS}
_FORMAT_OF[".mpo"] = "JPEG"
SUFFIXES = (*USUAL, *sorted(set(_FORMAT_OF) - set(USUAL)))

MAX_PIXELS = 64 * 2**20  # decoded as they are, several at once; larger ones one at a time, and reduced before all else
MAX_JPEG_PIXELS = 2**30  # of a baseline JPEG, which is reduced while it is decoded
SEVERAL = "several frames"
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_one_large = threading.Lock()


def load_image(file: Path | BinaryIO) -> Image.Image:
    """The picture in ``file``, the first of several frames (``info[SEVERAL]``), turned as its EXIF orientation says.

    Above ``MAX_PIXELS`` it is reduced by a whole factor to at most that many (JPEG: by 2, 4 or 8 while it is decoded),
    one picture at a time: a process needs 2 GB for the largest at most. Raises ``ValueError`` for what would take
    more: 2^30 pixels of a baseline JPEG, 179 million of others, Pillow's own bound. Raises whatever Pillow raises on a
    damaged file.
    """
    with open_image(file) as image:
        several = image.format != "MPO" and getattr(image, "is_animated", False)  # the others there are no pictures
        if image.width * image.height <= MAX_PIXELS:
            image.load()
            picture = ImageOps.exif_transpose(image)
        else:
            with _one_large:
                picture = ImageOps.exif_transpose(_reduced(image))
    picture.info[SEVERAL] = several
    return picture


def open_image(file: Path | BinaryIO) -> ImageFile.ImageFile:
    """The picture in ``file`` before its pixels are decoded: its size and mode."""
    own = _FORMAT_OF.get(file.suffix.lower()) if isinstance(file, Path) else None
    try:
        image = Image.open(file, formats=_COMMON if own is None else (own, *_COMMON))
    except Image.DecompressionBombError:
        return _open_large_jpeg(file)
    if image.format == "TIFF":
        image.filename = ""  # Pillow maps uncompressed files whose names it knows, and reads those wrongly that turn
    return image


def warnings_off() -> warnings.catch_warnings:
    """For a block that opens pictures, perhaps in threads: Pillow warns of sizes that are reduced here."""
    return warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning)


def _open_large_jpeg(file: Path | BinaryIO) -> ImageFile.ImageFile:
    """Beyond Pillow's bound, which only a picture may pass that is never whole in memory."""
    try:
        image = JpegImagePlugin.JpegImageFile(file)
    except SyntaxError:
        raise ValueError(f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller") from None
    if image.width * image.height > MAX_JPEG_PIXELS or image.info.get("progressive"):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) if image.info.get("progressive") else MAX_JPEG_PIXELS
        image.close()
        raise ValueError(f"{image.width} × {image.height} pixels are more than {most:,}; make it smaller")
    return image


def _reduced(image: ImageFile.ImageFile) -> Image.Image:
    if image.format in ("JPEG", "MPO"):
        factor = _factor(image)
        image.draft(None, (-(-image.width // factor), -(-image.height // factor)))
    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation)  # TIFF files have turned while they were decoded
    small: Image.Image = image
    if image.mode in ("1", "P", "PA") or "transparency" in image.info:  # numbers that are not brightness
        small = image.convert("RGBA")
    elif image.mode.startswith("I") or image.mode == "F":
        small = Image.fromarray(_to_8_bits(np.asarray(image), image.mode))
    small = small.reduce(_factor(small))
    if turned is not None:
        small.getexif()[ExifTags.Base.Orientation] = turned
    return small


def _factor(image: Image.Image) -> int:
    return next(k for k in range(1, 2**16) if -(-image.width // k) * -(-image.height // k) <= MAX_PIXELS)


def fit(image: Image.Image, channels: int, resolution: tuple[int, int]) -> np.ndarray:
    """``image`` of any mode as uint8 (C, H, W). Transparency is laid on white, unless ``channels`` is 4."""
    image = _with_channels(image, channels)
    height, width = resolution
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=centre(image.size, resolution))
    return np.ascontiguousarray(np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1))


def centre(size: tuple[int, int], resolution: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest box (left, top, right, bottom) of the proportions of ``resolution`` (H, W) in the middle of a picture
    of ``size`` (width, height)."""
    height, width = resolution
    scale = min(size[0] / width, size[1] / height)
    crop_width, crop_height = width * scale, height * scale
    left, top = (size[0] - crop_width) / 2, (size[1] - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def is_grey(image: Image.Image) -> bool:
    """Whether the mode of a picture, or its palette, has no colour."""
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bits(np.asarray(image), image.mode))
    transparent = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
    if transparent and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert(_MODES[channels])


def _to_8_bits(deep: np.ndarray, mode: str) -> np.ndarray:
    """Grey of 16 bits, 65535 is white, or floating point, 1 is white. Raises ``ValueError`` for numbers beyond."""
    low, high = deep.min(), deep.max()
    white = 1 if mode == "F" else 65535
    if not (low >= 0 and high <= white):  # NaN, too
        raise ValueError(f"its numbers go from {low:.6g} to {high:.6g}; save it with 8 bits, or from 0 to {white:,}")
    grey = np.empty(deep.shape, np.uint8)
    for rows in range(0, len(deep), 256):  # a few rows of wider numbers at a time
        part = deep[rows : rows + 256]
        grey[rows : rows + 256] = np.rint(part * 255) if mode == "F" else (part.astype(np.int64) + 128) // 257
    return grey


def fit_all(images: np.ndarray, channels: int, resolution: tuple[int, int], block: int = 4096) -> Iterator[np.ndarray]:
    """Arrays (N, H, W, 1 or 3) uint8 as blocks of at most ``block`` images (n, C, H, W), each as ``fit`` makes it."""
    unchanged = images.shape[1:] == (*resolution, channels)
    for start in range(0, len(images), block):
        part = images[start : start + block]
        if unchanged:
            yield np.ascontiguousarray(part.transpose(0, 3, 1, 2))
        else:
            yield np.stack([fit(Image.fromarray(image.squeeze()), channels, resolution) for image in part])
