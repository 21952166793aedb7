"""Samples as they are."""

from torch import Tensor, nn

from oboro.base.ranges import Width


class Identity(nn.Module):
    """The codec of diffusion in the space of the data: latent = sample, of any shape."""

    def __init__(self, channels: Width):
        super().__init__()
        self.channels = channels

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, ...) of the latent of a sample (C, ...)."""
        return shape
