"""The sizes and colours of pictures before they are decoded, and what network input suits them."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from PIL import ExifTags

from oboro.base.errors import UserError
from oboro.data.decode_or_skip import reason
from oboro.data.left_out import UNREADABLE, LeftOut, summary
from oboro.modality.decode_image import is_grey, open_image, warnings_off

AUTO: Literal["auto"] = "auto"
LARGEST = 64  # side of what is chosen: more is for whoever trains to decide
STEP = 4  # sides are multiples of it: small networks halve them twice


@dataclass(frozen=True)
class Shapes:
    """How many pictures there are of each size (height, width), and whether all are grey."""

    sizes: Counter[tuple[int, int]]
    grey: bool

    @classmethod
    def of(cls, files: Iterable[Path]) -> Self:
        """From the headers of ``files``; those that cannot be read are left out. ``UserError`` where none can."""
        files = list(files)
        with warnings_off(), ThreadPoolExecutor(8) as pool:
            read = list(pool.map(_header, files))
        headers = [header for header in read if not isinstance(header, str)]
        if not headers:
            why = [LeftOut(file.name, UNREADABLE, str(header)) for file, header in zip(files, read, strict=True)]
            raise UserError(f"none of the images can be read: {summary(why)}; repair them, or use other data")
        return cls(Counter(size for size, _ in headers), all(grey for _, grey in headers))

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3

    @property
    def resolution(self) -> tuple[int, int]:
        """(height, width): that of all pictures if they have one of at most 64 pixels a side. Otherwise a square of
        64 pixels, or of less where that would enlarge half of them. Sides are rounded down to a multiple of 4."""
        if len(self.sizes) == 1:
            ((height, width),) = self.sizes
            if max(height, width) <= LARGEST:
                return rounded(height), rounded(width)
        short = sorted(min(size) for size in self.sizes.elements())
        side = rounded(min(LARGEST, short[len(short) // 2]))
        return side, side

    def __str__(self) -> str:
        """``28×28``, ``64×48 to 1024×768`` (height × width)."""
        ordered = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        ends = dict.fromkeys(f"{height}×{width}" for height, width in (ordered[0], ordered[-1]))
        return " to ".join(ends)

    def remedy(self) -> str:
        """What to set so that none is enlarged, in words."""
        if len(self.sizes) == 1:
            ((height, width),) = self.sizes
            return f"set data.resolution={height if height == width else f'[{height},{width}]'}, their size"
        side = min(min(size) for size in self.sizes)
        return f"they have several sizes, {self}, and data.resolution={side} enlarges none"

    def plain(self) -> dict[str, Any]:
        return {"sizes": [[*size, n] for size, n in self.sizes.items()], "grey": self.grey}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        return cls(Counter({(height, width): n for height, width, n in plain["sizes"]}), plain["grey"])


def rounded(side: int) -> int:
    return max(STEP, side // STEP * STEP)


def _header(file: Path) -> tuple[tuple[int, int], bool] | str:
    """Size and whether it is grey, or the reason why nobody knows."""
    try:
        with open_image(file) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            turned &= image.format != "TIFF"  # Pillow gives the size of TIFF files as it is when they are turned
            width, height = image.size[::-1] if turned else image.size
            return (height, width), is_grey(image)
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        return reason(error)
