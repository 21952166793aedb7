"""Samples as they are."""

from torch import Tensor, nn


class Identity(nn.Module):
    """The codec of diffusion in the space of the data: latent = sample, of any shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(C, ...) of the latent of a sample (C, ...)."""
        return shape
