"""One image file, or one array of images, as uint8 (C, H, W) of the wanted channels and resolution.

The picture is scaled so that it just covers the resolution and cropped at its centre, both in one antialiased Lanczos
resampling (Pillow), and clipped to 8 bits.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_PIXELS = 64 * 2**20  # checked on the header, before anything is decoded; below the limit of Pillow itself
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def decode_file(file: Path | BinaryIO, channels: int, resolution: tuple[int, int]) -> np.ndarray:
    """The picture in ``file`` (PNG, JPEG or WebP), turned as its EXIF orientation says, as uint8 (C, H, W).

    Raises what ``load_image`` raises.
    """
    return fit(load_image(file), channels, resolution)


def load_image(file: Path | BinaryIO) -> Image.Image:
    """The picture in ``file`` (PNG, JPEG or WebP), turned as its EXIF orientation says.

    Raises whatever Pillow raises on a damaged file, and ``ValueError`` for one of more than ``MAX_PIXELS`` pixels.
    """
    with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} × {image.height} pixels are more than {MAX_PIXELS}")
        image.load()
        return ImageOps.exif_transpose(image)


def fit(image: Image.Image, channels: int, resolution: tuple[int, int]) -> np.ndarray:
    """``image`` of any mode as uint8 (C, H, W). Transparency is laid on white, unless ``channels`` is 4."""
    image = _with_channels(image, channels)
    height, width = resolution
    if image.size != (width, height):
        scale = min(image.width / width, image.height / height)
        crop_width, crop_height = width * scale, height * scale
        left, top = (image.width - crop_width) / 2, (image.height - crop_height) / 2
        box = (left, top, left + crop_width, top + crop_height)
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.ascontiguousarray(np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1))


def _with_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: 65535 is white, and Pillow may clip at 255
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    transparent = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
    if transparent and channels != 4:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert(_MODES[channels])


def fit_all(images: np.ndarray, channels: int, resolution: tuple[int, int], block: int = 4096) -> Iterator[np.ndarray]:
    """Arrays (N, H, W, 1 or 3) uint8 as blocks of at most ``block`` images (n, C, H, W), each as ``fit`` makes it."""
    unchanged = images.shape[1:] == (*resolution, channels)
    for start in range(0, len(images), block):
        part = images[start : start + block]
        if unchanged:
            yield np.ascontiguousarray(part.transpose(0, 3, 1, 2))
        else:
            yield np.stack([fit(Image.fromarray(image.squeeze()), channels, resolution) for image in part])
