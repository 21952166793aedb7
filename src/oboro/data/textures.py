"""Crops of three photographed textures: one is normal, the others are not."""

import hashlib
from collections.abc import Iterator
from typing import ClassVar, Unpack

import numpy as np

from oboro.base.errors import UserError
from oboro.base.ranges import Count
from oboro.data.cache import Block, Source
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.optional import library
from oboro.data.split import Rows

NAMES = ("brick", "grass", "gravel")
SIDE = 512  # of each photograph


class Textures(ImageData):
    """Crops of the grey pictures brick (class 0), grass (1) and gravel (2) of scikit-image, 512 pixels a side, all of
    CC0 (pip install "oboro[textures]"). ``resolution`` is the size of a crop, nothing is scaled, and one begins every
    ``stride`` pixels.

    The upper part of each photograph is for training, the strip below it for validation and the lowest for the test;
    ``validation`` and ``test`` are their shares of the height. A crop lies in one of them or is in none. With
    ``left_out=[1,2]`` brick is normal and all crops of the others are anomalous.

    Crops overlap, so they are fewer independent pictures than they seem.
    """

    defaults: ClassVar[ImageSettings] = {"channels": 1, "resolution": 64, "validation": 0.2, "test": 0.25}

    def __init__(self, *, stride: Count = 16, **settings: Unpack[ImageSettings]):
        super().__init__(**settings)
        self.stride = stride
        for key, share in (("validation", self.held_out), ("test", self.tested)):
            if share and not isinstance(share, float):
                raise UserError(f"data.{key}={share} is no share of the height of a photograph; set data.{key}=0.25")
        if max(self.stored_shape[1:]) > SIDE:
            raise UserError(f"data.resolution is larger than a photograph of {SIDE} pixels; set data.resolution=64")

    def source(self) -> Source:
        pictures = self._pictures()
        content = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
        key = hashlib.sha256(repr((content, self.stride)).encode()).hexdigest()
        return Source(key, len(NAMES), lambda: self._blocks(pictures), names=NAMES)

    def _pictures(self) -> list[np.ndarray]:
        skimage = library("skimage.data", "textures", extra="textures")
        try:
            pictures = [np.asarray(getattr(skimage, name)()) for name in NAMES]
        except Exception as error:  # versions without the files download them with a library of their own
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"this scikit-image has no picture of {', '.join(NAMES)} ({reason}); pip install -U scikit-image"
            ) from error
        assert all(picture.shape == (SIDE, SIDE) and picture.dtype == np.uint8 for picture in pictures)
        return pictures

    def _blocks(self, pictures: list[np.ndarray]) -> Iterator[Block]:
        channels, height, width = self.modality.shape
        for label, picture in enumerate(pictures):
            crops = np.lib.stride_tricks.sliding_window_view(picture, (height, width))[:: self.stride, :: self.stride]
            tops = np.repeat(np.arange(0, SIDE - height + 1, self.stride), crops.shape[1])
            flat = np.repeat(crops.reshape(-1, 1, height, width), channels, axis=1)
            if channels == 4:
                flat[:, 3] = 255
            yield Block(flat, np.full(len(flat), label), groups=tops)

    def divide(self, count: int, groups: np.ndarray | None) -> Rows:
        """By the row at which a crop begins."""
        assert groups is not None
        ends = groups + self.modality.shape[1]
        validation, test = (SIDE * (1 - self.tested - self.held_out), SIDE * (1 - self.tested))
        rows = Rows(
            np.flatnonzero(ends <= validation),
            np.flatnonzero((groups >= validation) & (ends <= test) & (self.held_out > 0)),
            np.flatnonzero((groups >= test) & (self.tested > 0)),
        )
        for inside, share in zip(rows, (1, self.held_out, self.tested), strict=True):
            if share and not len(inside):
                raise UserError(
                    f"data.validation={self.held_out} and data.test={self.tested} of {SIDE} pixels leave a strip "
                    f"without a crop of {self.modality.shape[1]}; set other shares, or a smaller data.resolution"
                )
        return rows
