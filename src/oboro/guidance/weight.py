"""How strong guidance is at which noise level: factors of scale - 1."""

from abc import ABC, abstractmethod
from math import inf, pi

import torch
from torch import Tensor

from oboro.base.ranges import NonNegative, NonNegativeOrInfinite
from oboro.schedule import Schedule


class Weight(ABC):
    """t ↦ factor, both (B,); 0 leaves the conditional model, and saves an evaluation if it is 0 for the whole batch."""

    @abstractmethod
    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor: ...


class Constant(Weight):
    """1 throughout."""

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        return torch.ones_like(t)


CONSTANT = Constant()


class Interval(Weight):
    """1 where ``low`` < sigma / alpha ≤ ``high``, else 0: Kynkäänniemi et al. 2024 (arXiv:2404.07724, eq. 6)."""

    def __init__(self, low: NonNegative = 0.2, high: NonNegativeOrInfinite = inf):
        self.low = low
        self.high = high

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        alpha, sigma = schedule(t)
        return ((sigma > self.low * alpha) & (sigma <= self.high * alpha)).to(t)


class Linear(Weight):
    """2 (1 - t): weak in noise, strong near data, 1 on average over t. Wang et al. 2024 (arXiv:2404.13040, sec. 4)."""

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        return 2 * (1 - t)


class Cosine(Weight):
    """1 + cos(pi t), 1 on average over t. Wang et al. 2024 (arXiv:2404.13040, sec. 4)."""

    def __call__(self, t: Tensor, schedule: Schedule) -> Tensor:
        return 1 + torch.cos(pi * t)
