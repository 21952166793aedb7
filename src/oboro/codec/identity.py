"""Pixels as they are."""

from torch import Tensor, nn


class Identity(nn.Module):
    """The codec of pixel-space diffusion: latent = data."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of the latent of an image (C, H, W)."""
        return image_shape
