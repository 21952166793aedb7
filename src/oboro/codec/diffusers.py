"""A published autoencoder."""

from dataclasses import dataclass
from typing import Any

from oboro.restore.part import State, Stored


@dataclass(frozen=True)
class Diffusers(Stored):
    """The ``AutoencoderKL`` in a folder as diffusers writes it. ``channels`` of its latents is told to the network.

    Its ``scaling_factor`` and ``shift_factor`` become the statistics of latents. Raises ``UserError`` for a folder that
    holds something else, or layers that ``Autoencoder`` does not have.
    """

    path: str
    channels: int | None = None

    def part(self) -> tuple[dict[str, Any], State]:
        from oboro.interop import autoencoder  # which imports codecs

        return autoencoder.load(self.path)
