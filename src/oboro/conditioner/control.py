"""Conditioning on the picture that a ControlNet reads."""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len

from oboro import condition
from oboro.base.errors import UserError
from oboro.base.ranges import Name, NonNegative, Share, Width
from oboro.conditioner.image import Image
from oboro.hint import Hint

Interval = Annotated[Sequence[Share], Len(2, 2)]


class Control(Image):
    """The picture ``hint`` of batch[``entry``] (B, image_channels, H, W), in [-1, 1], ↦ the signal ``name``, which a
    ControlNet reads.

    It counts ``strength`` times at times t of ``interval``, both ends included, and not at all at others; these are for
    sampling and may be changed then. A sample whose picture is dropped is one of the base alone. Raises ``UserError``
    for an interval that ends before it begins.
    """

    kind = condition.Control
    needing, otherwise = "model=controlnet and model=t2i_adapter follow", "leave model=... out"

    def __init__(
        self,
        image_channels: Width,
        dropout: Share = 0.0,
        name: Name = "control",
        entry: Name | None = None,
        hint: Hint | None = None,
        strength: NonNegative = 1.0,
        interval: Interval = (0.0, 1.0),
    ):
        super().__init__(image_channels, dropout, name, entry, hint)
        self.strength = strength
        self.interval = times(interval)

    def of(self, image: condition.Image) -> condition.Control:
        n, device = len(image), image.x.device
        numbers = (torch.full((n,), value, device=device) for value in (self.strength, *self.interval))
        return condition.Control(image.x, image.known, *numbers)


def times(interval: Sequence[float]) -> tuple[float, float]:
    """Raises ``UserError`` unless these are two times in order."""
    values = tuple(interval)
    if len(values) != 2 or not 0 <= values[0] <= values[1] <= 1:
        raise UserError(
            f"an interval of control is two times t from 0 (data) to 1 (noise), and not {list(values)}; give the "
            "smaller one first, as in [0.2, 1]."
        )
    return values[0], values[1]
