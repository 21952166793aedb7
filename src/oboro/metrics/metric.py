"""What callbacks and evaluation ask of a metric of generated images."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oboro.metrics.extractor import Images, Progress

QUANTISATION = "uint8 round"


class Metric(ABC):
    """A number about a set of generated images, and the words that say how it was obtained.

    The order of calls: ``prepare`` once before training, ``load`` on the device that generates, ``reference`` once,
    ``features`` on every batch of generated images, ``value`` on all of them together. A metric holds no images and
    draws no random number, so it may be called any number of times, on one device or eight.

    Attributes:
        active: False where generating samples for this metric would be waste.
    """

    active: bool = True

    @abstractmethod
    def name(self, n: int) -> str:
        """The name of the number obtained from ``n`` generated images."""

    @abstractmethod
    def prepare(self) -> None:
        """Make sure that everything needed is on this machine; raises ``UserError`` with the remedy otherwise."""

    @abstractmethod
    def load(self, device: torch.device | str) -> None:
        """Put what ``features`` needs on ``device``."""

    @abstractmethod
    def reference(
        self, images: Images, fingerprint: str, split: str, cache_dir: str | Path, progress: Progress | None = None
    ) -> Any:
        """What generated images are compared with: a summary of the real ``images``, kept in ``cache_dir``."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Features (B, d), float32, of uint8 ``images`` (B, C, H, W)."""

    @abstractmethod
    def value(self, features: Tensor, reference: Any) -> dict[str, float]:
        """``{name(n): number}`` from the ``features`` (n, d) of n generated images."""

    @abstractmethod
    def protocol(self, n: int, reference: Any, fingerprint: str, split: str) -> dict[str, str | int]:
        """Plain values that say how ``value`` was obtained; two numbers compare only where these are equal."""
