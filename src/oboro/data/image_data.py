"""What every source of pictures shares: the channels and the size that all of them get."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Unpack

from annotated_types import Len

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.ranges import Share, Width
from oboro.data.data_module import DataModule, Settings
from oboro.data.decode_or_skip import HintChannels, Picture
from oboro.data.shapes import AUTO, Shapes
from oboro.data.store import Store
from oboro.modality import Image
from oboro.modality.image import KINDS


class ImageSettings(Settings, total=False):
    """Those of every data source, and three of pictures."""

    channels: Literal[1, 3, 4, "auto"]
    resolution: Width | Annotated[Sequence[Width], Len(2, 2)] | Literal["auto"]
    max_unreadable: Share


class ImageData(DataModule):
    """Pictures (C, H, W), uint8, which a source makes fit; the rest is as in ``DataModule``.

    - ``resolution``: side, or (H, W). ``channels``: 1 grey, 3 RGB, 4 RGB and opacity. ``"auto"`` is what ``Shapes``
      finds, for sources that know their pictures before they are decoded.
    - ``max_unreadable``: the share of pictures that may be left out because they cannot be read; more is an error.

    A subclass gives ``source()``, perhaps ``shapes()``, and perhaps ``defaults`` of its own.
    """

    hint_channels: HintChannels = 3  # of second pictures
    defaults: ClassVar[ImageSettings] = {"channels": 3, "resolution": 64, "max_unreadable": 0.5}
    noun = Image.noun

    def __init__(self, **settings: Unpack[ImageSettings]):
        given = self.complete(settings)
        channels, resolution, most = (given.pop(key) for key in ("channels", "resolution", "max_unreadable"))
        size = (resolution, resolution) if isinstance(resolution, int) else tuple(resolution)
        if channels != AUTO and channels not in KINDS:
            raise UserError(f"data.channels={channels} is not a kind of image; set 1 (grey), 3 (RGB) or 4 (RGBA)")
        if resolution != AUTO and (len(size) != 2 or min(size) < 1):
            raise UserError(f"data.resolution={resolution} is not a size; set one side or [height, width]")
        if not 0 <= most <= 1:
            raise UserError(f"data.max_unreadable={most} is no share of the images; set a number from 0 to 1")
        super().__init__(**given)
        self._channels, self._size = channels, AUTO if resolution == AUTO else size
        self.max_unreadable = most

    @cached_property
    def modality(self) -> Image:
        channels, size = self._channels, self._size
        return Image(
            self.shapes().channels if channels == AUTO else channels,
            *(self.shapes().resolution if size == AUTO else size),
        )

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        return self.modality.shape

    def pictures(self) -> Iterable[Picture] | None:
        """The files of the pictures, in the order of ``source()``, a ``Sequence`` where each is read by itself; None
        where the source knows decoded ones only."""
        return None

    def shapes(self) -> Shapes:
        """What the pictures are before they are made to fit. Raises ``UserError`` where that is not known."""
        key = "channels" if self._channels == AUTO else "resolution"
        raise UserError(f"data.{key}=auto is for folders of pictures; set data.{key} to a number")

    def settled(self) -> dict[str, Any]:
        height, width = self.modality.shape[1:]
        found = {"channels": self.modality.shape[0], "resolution": height if height == width else [height, width]}
        chosen = {"channels": self._channels, "resolution": self._size}
        return {key: value for key, value in found.items() if chosen[key] == AUTO} | super().settled()

    def findings(self) -> list[str]:
        if AUTO not in (self._channels, self._size):
            return super().findings()
        shapes = self.shapes()
        colour = "grey" if shapes.grey else "in colour"
        return [f"{counted(shapes.sizes.total(), self.noun)} of {shapes}, {colour}", *super().findings()]

    def describe(self, store: Store) -> None:
        self.hint_modalities = {entry: Image(*shape[1:]) for entry, shape in store.hint_shapes.items()}
