"""What every source of pictures shares: the channels and the size that all of them get."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Unpack

from annotated_types import Len

from oboro.base.errors import UserError
from oboro.base.ranges import Width
from oboro.data.cache import Cached
from oboro.data.data_module import DataModule, Settings
from oboro.modality import Image
from oboro.modality.image import KINDS


class ImageSettings(Settings, total=False):
    """Those of every data source, and two of pictures."""

    channels: Literal[1, 3, 4]
    resolution: Width | Annotated[Sequence[Width], Len(2, 2)]


class ImageData(DataModule):
    """Pictures (C, H, W), uint8, which a source makes fit; the rest is as in ``DataModule``.

    - ``resolution``: side, or (H, W). ``channels``: 1 grey, 3 RGB, 4 RGB and opacity.

    A subclass gives ``source()``, and perhaps ``defaults`` of its own.
    """

    defaults: ClassVar[ImageSettings] = {"channels": 3, "resolution": 64}
    modality: Image

    def __init__(self, **settings: Unpack[ImageSettings]):
        given = self.complete(settings)
        channels, resolution = given.pop("channels"), given.pop("resolution")
        size = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
        if channels not in KINDS:
            raise UserError(f"data.channels={channels} is not a kind of image; set 1 (grey), 3 (RGB) or 4 (RGBA)")
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"data.resolution={resolution} is not a size; set one side or [height, width]")
        super().__init__(**given)
        self.modality = Image(channels, *size)
        self.stored_shape = self.modality.shape

    def describe(self, cached: Cached) -> None:
        if cached.hint_shape is not None:
            self.hint_modality = Image(*cached.hint_shape[1:])
