"""Which pixels are known: pure functions of a size and a generator."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import cos, pi, sin
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.ranges import Count, CountOrNone, PositiveShare, Share
from oboro.measurement.mask import Mask
from oboro.modality.decode_image import load_image

Side = Literal["left", "right", "top", "bottom"]
SIDES: tuple[Side, ...] = ("left", "right", "top", "bottom")


class MaskShape(ABC):
    """(height, width, generator) ↦ mask (1, height, width), bool: True where the sample is known, False in the hole."""

    @abstractmethod
    def __call__(self, height: int, width: int, generator: torch.Generator) -> Tensor: ...

    def operator(self, shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Mask:
        """The masks of len(generators) samples of ``shape`` (C, H, W), one drawn from each generator.

        Raises ``UserError`` where the shape does not fit into such samples.
        """
        _, height, width = shape
        return Mask(torch.stack([self(height, width, g) for g in generators]))

    def picture_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of the pictures that samples of ``height`` × ``width`` are made after."""
        return height, width

    def placed(self, pictures: Tensor, height: int, width: int) -> Tensor:
        """Pictures (B, C, ...) of ``picture_size`` where they are to be in samples of ``height`` × ``width``."""
        return pictures


class MaskBox(MaskShape):
    """A hole of ``height`` × ``width`` pixels, in the middle if ``centred`` and else anywhere; None: a size from a
    quarter to three quarters of the side, uniformly."""

    def __init__(self, height: Count | None = None, width: Count | None = None, centred: bool = False):
        self.height = height
        self.width = width
        self.centred = centred

    def __call__(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        rows = self._span("height", self.height, height, generator)
        columns = self._span("width", self.width, width, generator)
        mask = torch.ones(1, height, width, dtype=torch.bool)
        mask[:, rows, columns] = False
        return mask

    def _span(self, name: str, wanted: int | None, side: int, generator: torch.Generator) -> slice:
        if wanted is not None and wanted > side:
            raise UserError(
                f"a hole of measurement.{name}={wanted} pixels is larger than the sample, {side}; set it to less."
            )
        size = whole(max(1, side // 4), max(1, 3 * side // 4), generator) if wanted is None else wanted
        first = (side - size) // 2 if self.centred else whole(0, side - size, generator)
        return slice(first, first + size)


class MaskOutside(MaskShape):
    """All but a box of ``height`` × ``width`` pixels, the picture, with its corner at (``top``, ``left``) and by
    default in the middle: outpainting, where samples are larger than pictures."""

    def __init__(self, height: Count, width: Count, top: CountOrNone | None = None, left: CountOrNone | None = None):
        self.height = height
        self.width = width
        self.top = top
        self.left = left

    def __call__(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        return self.placed(torch.ones(1, 1, self.height, self.width, dtype=torch.bool), height, width)[0]

    def picture_size(self, height: int, width: int) -> tuple[int, int]:
        return self.height, self.width

    def placed(self, pictures: Tensor, height: int, width: int) -> Tensor:
        top = (height - self.height) // 2 if self.top is None else self.top
        left = (width - self.width) // 2 if self.left is None else self.left
        below, right = height - self.height - top, width - self.width - left
        if min(top, left, below, right) < 0:
            raise UserError(
                f"a picture of measurement.height={self.height} and measurement.width={self.width} pixels does not fit "
                f"there into samples of {height}×{width}; set size=[height,width] to more, or "
                "measurement.top and measurement.left to less."
            )
        return pad(pictures, (left, right, top, below))


class MaskHalf(MaskShape):
    """A hole as large as half of the sample, at ``side``; None: at any of the four."""

    def __init__(self, side: Side | None = None):
        self.side = side

    def __call__(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        side = self.side or SIDES[whole(0, 3, generator)]
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        known = {
            "left": columns >= width // 2,
            "right": columns < width - width // 2,
            "top": rows >= height // 2,
            "bottom": rows < height - height // 2,
        }
        return known[side].expand(height, width)[None].clone()


class MaskRandom(MaskShape):
    """Single pixels: ``share`` of all, rounded to a whole number of them, are hidden."""

    def __init__(self, share: Share = 0.7):
        self.share = share

    def __call__(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        mask = torch.ones(height * width, dtype=torch.bool)
        mask[torch.randperm(height * width, generator=generator)[: round(self.share * height * width)]] = False
        return mask.view(1, height, width)


class MaskStroke(MaskShape):
    """Free-form strokes: 1 to ``strokes`` polygonal chains of 2 to ``corners`` pieces, ``width`` of the shorter side
    wide, each piece up to a half of that side long and turned by at most 90° against the one before it.

    In the manner of Yu et al. 2019 (arXiv:1806.03589, sec. 3.4).
    """

    def __init__(self, strokes: Count = 3, corners: Count = 5, width: PositiveShare = 0.12):
        self.strokes = strokes
        self.corners = corners
        self.width = width

    def __call__(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        side, corner = min(height, width), torch.tensor([height - 1, width - 1], dtype=torch.float64)
        hole = torch.zeros(height, width, dtype=torch.bool)
        for _ in range(whole(1, self.strokes, generator)):
            pieces = whole(min(2, self.corners), self.corners, generator)
            start, (angle, _), *turns = torch.rand(pieces + 2, 2, dtype=torch.float64, generator=generator)
            at, angle = start * corner, 2 * pi * float(angle)
            for turn, length in torch.stack(turns).tolist():
                angle += (turn - 0.5) * pi
                way = torch.tensor([sin(angle), cos(angle)], dtype=torch.float64)
                to = torch.minimum((at + 0.5 * side * length * way).clamp(min=0), corner)
                hole |= distance(height, width, at, to) <= self.width * side / 2
                at = to
        return ~hole[None]


def distance(height: int, width: int, start: Tensor, end: Tensor) -> Tensor:
    """Of each pixel to the line from ``start`` to ``end``, each (row, column), (height, width)."""
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in (height, width))
    along, from_start = end - start, torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1) - start
    share = (from_start @ along / along.square().sum().clamp(min=1e-12)).clamp(0, 1)
    return (from_start - share[..., None] * along).norm(dim=-1)


class MaskFile(MaskShape):
    """The mask in a picture of black and white, as large as the samples. White is the ``hole`` by default, as in most
    programs that paint masks; white = known is the other way round."""

    def __init__(self, path: LocalPath, white: Literal["hole", "known"] = "hole"):
        self.path = path
        self.white = white

    def __call__(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        pixels = self._pixels()
        if pixels.shape != (height, width):
            raise UserError(
                f"the mask {self.path} is {pixels.shape[0]}×{pixels.shape[1]} and the samples are {height}×{width}; "
                "give a mask of their size."
            )
        white = pixels >= 128
        known = white if self.white == "known" else ~white
        if known.all():
            raise UserError(
                f"the mask {self.path} hides nothing; paint the hole white, or black with measurement.white=known."
            )
        return torch.from_numpy(known)[None]

    def _pixels(self) -> np.ndarray:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise UserError(f"there is no mask {self.path}; set it to a picture of black and white.")
        try:
            image = load_image(path)
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            raise UserError(f"the mask {self.path} cannot be read; save it as a PNG of black and white.") from error
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise UserError(f"the mask {self.path} has transparent pixels; save it in black and white alone.")
        return np.asarray(image.convert("RGB").convert("L"))


def whole(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from ``low`` to ``high``, both with it."""
    return int(torch.randint(low, high + 1, (), generator=generator))
