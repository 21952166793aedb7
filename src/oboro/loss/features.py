"""Features of frozen networks that a discriminator looks at: what is made is told from data by heads on them."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.classifier import NoisyClassifier
from oboro.loss.perceptual import LPIPS, Fashion
from oboro.model import UNetEncoder
from oboro.parameterization import network_input
from oboro.schedule import expand_as


class Features(nn.Module, ABC):
    """Images (B, C, H, W) in [-1, 1] ↦ features (B, C_k, H_k, W_k), several of different depth.

    ``channels`` are C_k. ``seen_by`` is the extractor that has the same network, by its class, if there is one: a model
    that has learned by its features must not be measured with it.
    """

    channels: tuple[int, ...]
    seen_by: str | None = None

    def check(self, channels: int) -> None:
        """Before training: read what has to be read. Raises ``UserError`` for images of other ``channels``."""

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]: ...


class Perceptual(Features):
    """The features of a perceptual distance: of the shipped Fashion-MNIST classifier, or of VGG16."""

    def __init__(self, distance: Fashion | LPIPS):
        super().__init__()
        self.distance = distance
        self.channels = distance.channels
        self.seen_by = "Fashion" if isinstance(distance, Fashion) else None

    def check(self, channels: int) -> None:
        self.distance.check(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return self.distance.features(x.float())


class Classifier(Features):
    """The last activation of each level of a classifier that ``task=classification`` has trained, and that after its
    middle, asked without noise: at log-SNR 20, where c_noise ends."""

    def __init__(self, classifier: NoisyClassifier):
        super().__init__()
        self.classifier = classifier
        network = self._network
        self.channels = (*(network.skip_channels[i] for i in network.level_ends), network.skip_channels[-1])

    @property
    def _network(self) -> UNetEncoder:
        assert isinstance(self.classifier.network, UNetEncoder)  # the only network that tells classes
        return self.classifier.network

    def check(self, channels: int) -> None:
        own = self._network.in_channels
        if own != channels:
            raise UserError(
                f"the classifier of loss.features sees images of {own} channels and the data have {channels}; name one "
                "of the same data with loss.features.classifier.path=<a checkpoint of task=classification>."
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        network = self._network
        alpha, sigma = x.new_ones(len(x)), x.new_zeros(len(x))
        c_in, c_noise = network_input(alpha, sigma, self.classifier.sigma_data)
        return network.features(expand_as(c_in, x) * x, c_noise, {})
