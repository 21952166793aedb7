"""What everything else needs of a codec."""

from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """x (B, C, ...) ↔ latent (B, channels, ...), a module."""

    channels: int

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, ...) of the latent of a sample (C, ...). Raises ``UserError`` for samples that it cannot encode."""
