"""What codecs share that are trained: sizes, and latents with mean 0 and standard deviation 1."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oboro.base.counted import counted
from oboro.base.errors import UserError


class Reconstructed(NamedTuple):
    """What training sees of a batch: images (B, C, H, W), the codec's own term of the objective (B,), and numbers to
    be logged."""

    image: Tensor
    penalty: Tensor
    numbers: Mapping[str, Tensor]


class Learned(nn.Module, ABC):
    """A codec between images (B, in_channels, H, W) and latents (B, channels, H / factor, W / factor).

    ``encode`` gives (latent - latent_mean) / latent_std for each channel and ``decode`` undoes it. The statistics are
    buffers, 0 and 1 until ``standardise`` sets them to those of the training images (LDM scales by one number for all
    channels: arXiv:2112.10752, appendix G).
    """

    def __init__(self, in_channels: int, channels: int, factor: int):
        super().__init__()
        self.in_channels = in_channels
        self.channels = channels
        self.factor = factor
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))

    @abstractmethod
    def latent(self, x: Tensor) -> Tensor:
        """The latent of images as it comes out of the encoder, nothing drawn."""

    @abstractmethod
    def image(self, latent: Tensor) -> Tensor:
        """What ``latent`` undoes."""

    @abstractmethod
    def reconstruct(self, x: Tensor, generator: torch.Generator) -> Reconstructed:
        """Images through the bottleneck of training; draws are ``generator``'s, on its own device."""

    @property
    @abstractmethod
    def last(self) -> nn.Parameter:
        """The weight of the last layer of the decoder, at which gradients of losses are compared."""

    @abstractmethod
    def observe(self, x: Tensor) -> Tensor:
        """What validation keeps of the latent of each image, (B, K)."""

    @abstractmethod
    def summary(self, rows: Tensor) -> dict[str, float]:
        """The numbers about latents, by name, of the rows (N, columns), float64, of all held-out images."""

    def encode(self, x: Tensor) -> Tensor:
        return (self.latent(x) - self._of_channels(self.latent_mean)) / self._of_channels(self.latent_std)

    def decode(self, z: Tensor) -> Tensor:
        return self.image(z * self._of_channels(self.latent_std) + self._of_channels(self.latent_mean))

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) of the latent of an image (C, H, W). Raises ``UserError`` where ``factor`` leaves a rest, and for
        samples that are no images or have other channels."""
        if len(shape) != 3:
            raise UserError(
                f"{type(self).__name__} is a codec of images and a sample is {'×'.join(map(str, shape))}; choose "
                "codec=identity."
            )
        channels, height, width = shape
        if channels != self.in_channels:
            raise UserError(
                f"the codec is for images of {counted(self.in_channels, 'channels')} and these have {channels}; set "
                f"data.channels={self.in_channels}, or choose a codec of such images."
            )
        if height % self.factor or width % self.factor:
            near = [side // self.factor * self.factor or self.factor for side in (height, width)]
            more = [-(-side // self.factor) * self.factor for side in (height, width)]
            raise UserError(
                f"the codec divides sides by {self.factor} and images are {height}×{width}; set "
                f"data.resolution=[{near[0]},{near[1]}] or data.resolution=[{more[0]},{more[1]}], or fewer levels "
                "with codec.channel_mult."
            )
        return self.channels, height // self.factor, width // self.factor

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics (C,) of ``latent``; a channel that never changes is only shifted."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(torch.where(std > 0, std, 1.0))

    def _of_channels(self, statistic: Tensor) -> Tensor:
        return statistic[:, None, None]
