"""A published autoencoder."""

from dataclasses import dataclass
from typing import Any

from oboro.base.paths import LocalPath
from oboro.base.ranges import Width
from oboro.interop import autoencoder
from oboro.restore import State, Stored


@dataclass(frozen=True)
class Diffusers(Stored):
    """The ``AutoencoderKL`` in a folder as diffusers writes it. ``channels`` of its latents are
    for nodes that interpolate them.

    Its ``scaling_factor`` and ``shift_factor`` become the statistics of latents. Raises ``UserError`` for a folder that
    holds something else, or layers that ``Autoencoder`` does not have.
    """

    path: LocalPath
    channels: Width | None = None

    def load(self) -> tuple[dict[str, Any], State]:
        return autoencoder.load(self.path)
