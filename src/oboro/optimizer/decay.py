"""How the learning rate falls over a run."""

from abc import ABC, abstractmethod
from math import cos, pi, sqrt

from oboro.base.ranges import PositiveShare


class Decay(ABC):
    """Share of training done, in [0, 1] ↦ factor of the learning rate."""

    @abstractmethod
    def __call__(self, done: float) -> float: ...


class Constant(Decay):
    """1 throughout."""

    def __call__(self, done: float) -> float:
        return 1.0


class LinearDecay(Decay):
    """1 - done."""

    def __call__(self, done: float) -> float:
        return 1.0 - done


class CosineDecay(Decay):
    """(1 + cos(pi done)) / 2 (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, one period)."""

    def __call__(self, done: float) -> float:
        return (1.0 + cos(pi * done)) / 2


class StableDecay(Decay):
    """1 until the last ``share`` of the run, and 1 - sqrt(d) from there, d the part of that share that is done.

    Warm-up, stable, decay: Hu et al. 2024 (arXiv:2404.06395, sec. 4.2), with the square root of Hägele et al. 2024
    (arXiv:2405.18392, eq. 1). Until then the rate does not know the end of the run, so ``resume`` with another
    ``trainer.max_steps`` ends it earlier, later or again.
    """

    def __init__(self, share: PositiveShare = 0.2):
        self.share = share

    def __call__(self, done: float) -> float:
        return 1.0 - sqrt(min(max((done - 1) / self.share + 1, 0.0), 1.0))
