"""How the error r = D - x of a sample becomes one number, which the weight multiplies."""

from abc import ABC, abstractmethod
from math import sqrt

from torch import Tensor

from oboro.base.ranges import Positive, Share


class Penalty(ABC):
    """r (B, ...) to (B,), zero for r = 0 and growing with |r|.

    ``power``: gradients grow as |r|^(1 - 2 power).
    """

    power: float = 0.0

    @abstractmethod
    def __call__(self, r: Tensor) -> Tensor: ...


class Squared(Penalty):
    """mean(r²). The only penalty here whose optimal denoiser is the mean E[x | x_t], as samplers assume."""

    def __call__(self, r: Tensor) -> Tensor:
        return r.square().flatten(1).mean(1)


class PseudoHuber(Penalty):
    """sqrt(|r|² + c²) - c with c = scale sqrt(D), D the dimension of r: |r|² / 2c for small errors, |r| for large ones.

    Song & Dhariwal 2023 (arXiv:2310.14189, eq. 5-6, scale = 0.00054), for consistency training. Robust to outliers; the
    optimal denoiser is then nearer to the geometric median of x given x_t than to its mean.
    """

    power = 0.5  # of all but the smallest errors

    def __init__(self, scale: Positive = 0.00054):
        self.scale = scale

    def __call__(self, r: Tensor) -> Tensor:
        square = r.square().flatten(1)
        c = self.scale * sqrt(square.shape[1])
        total = square.sum(1)
        return total / ((total + c**2).sqrt() + c)  # the same, without the difference of two nearly equal numbers


class Adaptive(Penalty):
    """S / sg(S + c)^power of S = |r|², the sum of squares, or with ``mean`` their mean; no gradient through sg.

    Geng et al. 2025 (arXiv:2505.13447, eq. 22 and app. B.2): each sample counts as its error to the power
    1 - 2 ``power``, whatever its size, so that the few with an enormous target move the weights no more than others.
    """

    def __init__(self, power: Share = 1.0, c: Positive = 1e-3, mean: bool = False):
        self.power = power
        self.c = c
        self.mean = mean

    def __call__(self, r: Tensor) -> Tensor:
        square = r.square().flatten(1)
        size = square.mean(1) if self.mean else square.sum(1)
        return size / (size.detach() + self.c) ** self.power
