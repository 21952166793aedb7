"""Pictures of 8 bits."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.finite import check_finite
from oboro.base.ranges import Width
from oboro.modality.decode_image import USUAL, fit, load_image, warnings_off
from oboro.modality.modality import Modality, sizes

TILE = 64  # small images are enlarged by a whole factor to at least this many pixels
KINDS = MappingProxyType({1: "grey", 3: "RGB", 4: "RGBA"})  # by the number of channels


def from_uint8(image: Tensor) -> Tensor:
    """uint8 to float32 in [−1, 1]: ``x / 127.5 − 1``. ``to_uint8`` is its exact inverse."""
    return image.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """Floating point to uint8: ``round(clamp(x, −1, 1) · 127.5 + 127.5)``, computed in float32.

    Raises ``UserError`` for images with NaN or infinity, which would be black or white like others.
    """
    check_finite(image, "images", "the weights may have diverged; take an earlier checkpoint, or precision=32-true")
    return image.to(torch.float32).clamp(-1, 1).mul(127.5).add(127.5).round().to(torch.uint8)


class Image(Modality):
    """A picture (C, H, W) of 8 bits: 1 channel is grey, 3 are RGB, 4 RGB and opacity. For the model it is in [−1, 1].

    Shown in a grid, small ones enlarged pixel by pixel; written as PNG.
    """

    noun = "images"
    dtype = torch.uint8
    quantisation = "uint8 round"
    layout = "uint8 pixels (n, H, W, C), or (n, H, W) of grey images,"
    suffixes = USUAL
    mirrors = True
    size_option = "data.resolution"

    def __init__(self, channels: Width, height: Width, width: Width):
        if channels not in KINDS:
            raise UserError(f"an image of {channels} channels is not known; set 1 (grey), 3 (RGB) or 4 (RGBA).")
        self.shape = (channels, height, width)

    def to_model(self, stored: Tensor) -> Tensor:
        return from_uint8(stored)

    def to_stored(self, x: Tensor) -> Tensor:
        return to_uint8(x)

    def picture(self, stored: Tensor, columns: int) -> PIL.Image.Image:
        return grid_image(stored, columns)

    def write(self, stored: Tensor, path: Path) -> Path:
        path = path.with_name(path.name + self.suffixes[0])
        pixels = stored.permute(1, 2, 0).numpy()
        PIL.Image.fromarray(pixels[..., 0] if len(stored) == 1 else pixels).save(path)
        return path

    def read_fitted(self, path: Path) -> Tensor:
        """One stored image (C, H, W) from a file of any size, scaled and cropped as training images are.

        Raises ``UserError`` for a file that is damaged.
        """
        channels, height, width = self.shape
        return torch.from_numpy(fit(self._opened(path), channels, (height, width)).copy())

    def _opened(self, path: Path) -> PIL.Image.Image:
        try:
            with warnings_off():
                return load_image(path)
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            unknown = isinstance(error, PIL.UnidentifiedImageError)
            reason = f"it is no {', '.join(USUAL)} picture" if unknown else str(error) or type(error).__name__
            raise UserError(f"{path} cannot be read ({reason}); repair it or choose another.") from error

    def read(self, path: Path) -> Tensor:
        image = self._opened(path)
        channels, height, width = self.shape
        if (image.height, image.width) != (height, width):
            raise UserError(
                f"{path} is {image.height}×{image.width} and is to be {height}×{width}; resize the picture, or where "
                "samples are compared with data choose data of its size, data.resolution."
            )
        return torch.from_numpy(fit(self._converted(image, path), channels, (height, width)).copy())

    def _converted(self, image: PIL.Image.Image, path: Path) -> PIL.Image.Image:
        """``image`` in 8 bits with the channels of the data, where that loses nothing. ``UserError`` where it would."""
        channels = self.shape[0]
        if image.mode[0] in "IF" or sixteen_bits(path):
            raise UserError(f"{path} has more than 8 bits a channel and the data 8; save the pictures with 8.")
        if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"):
            raise UserError(f"{path} is {image.mode}, no RGB or grey picture; convert it.")
        grey = image.mode in ("1", "L", "LA", "La")
        if image.has_transparency_data and channels != 4:
            if image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
                raise UserError(f"{path} has transparent pixels and the data have none; lay it on white.")
            image = image.convert("RGBA").convert("RGB")
        if channels == 1 and not grey:
            bands = [np.asarray(band) for band in image.convert("RGB").split()]
            if not all(np.array_equal(bands[0], band) for band in bands[1:]):
                raise UserError(
                    f"{path} is RGB and the data are grey; set data.channels=3, or convert the pictures to grey."
                )
        return image

    def to_array(self, stored: Tensor) -> np.ndarray:
        return stored.permute(0, 2, 3, 1).numpy()

    def check_array(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if dtype != np.uint8 or len(shape) not in (3, 4) or not shape[0]:
            raise ValueError(self.layout)
        given = (shape[3] if len(shape) == 4 else 1, *shape[1:3])
        if shape[1:] == self.shape != given:
            raise ValueError("uint8 pixels (n, H, W, C), channels last,")
        if given != self.shape:
            raise UserError(
                f"the images are {sizes(given)} and those of the data {self}; set data.resolution "
                "and data.channels to those of the images."
            )

    def from_array(self, array: np.ndarray) -> Tensor:
        self.check_array(array.shape, array.dtype)
        pixels = torch.from_numpy(array)
        return pixels.unsqueeze(1) if array.ndim == 3 else pixels.permute(0, 3, 1, 2)

    def spec(self) -> dict[str, Any]:
        channels, height, width = self.shape
        return {"_target_": "oboro.modality.Image", "channels": channels, "height": height, "width": width}


def sixteen_bits(path: Path) -> bool:
    """Whether a file is a PNG of 16 bits a channel, of which Pillow reads the upper 8 where there are colours."""
    with path.open("rb") as file:
        start = file.read(25)
    return start.startswith(b"\x89PNG") and start[24:] == b"\x10"


def grid_image(images: Tensor, columns: int) -> PIL.Image.Image:
    """uint8 images (N, C, H, W), C = 1, 3 or 4, in rows of ``columns`` on white, small ones enlarged pixel by pixel."""
    from torchvision.utils import make_grid  # a second of imports, which runs without pictures do without

    factor = max(1, -(-TILE // max(images.shape[-2:])))
    large = images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    grid = make_grid(large, columns, padding=2, pad_value=255).permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(grid[..., 0] if images.shape[1] == 1 else grid)
