"""Published tables of betas, in continuous time: equal to the table at its points, with constant beta between them.

A table beta_1 ... beta_T has abar_i = (1 - beta_1) ... (1 - beta_i). Its i-th entry, index i - 1 in code, is at
t = i / T, and t = 0 is exact data. Between two points -log abar is linear in t, so every time of the table is a VP
schedule and samplers may stop anywhere.
"""

from abc import abstractmethod
from itertools import accumulate, pairwise
from math import cos, log1p, pi, sqrt

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.precision import double
from oboro.base.ranges import BelowOne, NonNegative, Steps
from oboro.schedule.schedule import VariancePreserving, in_float64


class Discrete(VariancePreserving):
    """Subclasses give the betas of a table.

    log_snr = -log(exp(L) - 1) with L = -log abar, piecewise linear through ``T + 1`` knots; beyond t = 1 the last piece
    goes on. Its inverse finds the piece by bisection.

    Raises ``UserError`` unless there are betas, all of them in (0, 1).
    """

    def __init__(self, steps: Steps):
        betas = self.betas(steps)
        if not betas or not all(0 < beta < 1 for beta in betas):
            raise UserError(
                f"{type(self).__name__} of {steps} steps has no betas in (0, 1); choose steps > 0 and betas between."
            )
        self.steps = steps
        knots = accumulate((-log1p(-beta) for beta in betas), initial=0.0)
        self._knots = torch.tensor(list(knots), dtype=torch.float64, device="cpu")

    @abstractmethod
    def betas(self, steps: int) -> list[float]:
        """beta_1 ... beta_T of T = ``steps``, as they are called in DDPM (arXiv:2006.11239, eq. 2)."""

    def t_of_index(self, index: Tensor) -> Tensor:
        """t = (index + 1) / T of table indices 0 ... T - 1, which the code of DDPM and diffusers calls t; float64."""
        return (double(index) + 1) / self.steps

    def index(self, t: Tensor) -> Tensor:
        """The index of the nearest point of the table, int64; the first one for all times before it."""
        return ((double(t) * self.steps).round().long() - 1).clamp(0, self.steps - 1).to(t.device)

    def log_snr(self, t: Tensor) -> Tensor:
        return in_float64(lambda t: -torch.log(torch.expm1(self._integral(t))), t)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return in_float64(lambda log_snr: self._time(torch.nn.functional.softplus(-log_snr, threshold=100)), log_snr)

    def _integral(self, t: Tensor) -> Tensor:
        """L(t) = -log abar."""
        knots, position = self._knots.to(t.device), t * self.steps
        piece = position.detach().floor().long().clamp(0, self.steps - 1)
        return knots[piece] + (position - piece) * (knots[piece + 1] - knots[piece])

    def _time(self, integral: Tensor) -> Tensor:
        """The inverse of ``_integral``."""
        knots = self._knots.to(integral.device)
        piece = (torch.searchsorted(knots, integral.detach().contiguous(), right=True) - 1).clamp(0, self.steps - 1)
        return (piece + (integral - knots[piece]) / (knots[piece + 1] - knots[piece])) / self.steps


def evenly(first: float, last: float, count: int) -> list[float]:
    """``count`` numbers from ``first`` to ``last``."""
    return [first + (last - first) * i / max(count - 1, 1) for i in range(count)]


class DDPM(Discrete):
    """The table of DDPM: betas from ``beta_start`` to ``beta_end``, linear in the index.

    Ho et al. 2020 (arXiv:2006.11239, sec. 4). diffusers calls it beta_schedule "linear"; ``VP`` is its limit of many
    steps.
    """

    def __init__(self, beta_start: BelowOne = 1e-4, beta_end: BelowOne = 0.02, steps: Steps = 1000):
        self.beta_start = beta_start
        self.beta_end = beta_end
        super().__init__(steps)

    def betas(self, steps: int) -> list[float]:
        return evenly(self.beta_start, self.beta_end, steps)


class ScaledLinear(Discrete):
    """The table of Stable Diffusion: the roots of the betas are linear in the index.

    Rombach et al. 2022 (arXiv:2112.10752) have it in their code; diffusers calls it beta_schedule "scaled_linear". It
    ends with alpha = 0.068 of signal, which tells a network the mean brightness of an image, and which a sampler does
    not give it (Lin et al. 2023, arXiv:2305.08891, sec. 2.1): ``ZeroTerminalSNR`` takes it away.
    """

    def __init__(self, beta_start: BelowOne = 0.00085, beta_end: BelowOne = 0.012, steps: Steps = 1000):
        self.beta_start = beta_start
        self.beta_end = beta_end
        super().__init__(steps)

    def betas(self, steps: int) -> list[float]:
        if min(self.beta_start, self.beta_end) < 0:
            return []
        return [root**2 for root in evenly(sqrt(self.beta_start), sqrt(self.beta_end), steps)]


class DiscreteCosine(Discrete):
    """The table of improved DDPM: beta_i = min(1 - f(i / T) / f((i - 1) / T), 0.999).

    f(u) = cos²(pi / 2 (u + s) / (1 + s)), with s so that beta_1 is not too small to be seen in 8 bits. Nichol &
    Dhariwal 2021 (arXiv:2102.09672, eq. 17). diffusers calls it beta_schedule "squaredcos_cap_v2". ``Cosine`` has no
    offset s and no limit of beta, and ends without signal.
    """

    def __init__(self, s: NonNegative = 0.008, steps: Steps = 1000):
        self.s = s
        super().__init__(steps)

    def betas(self, steps: int) -> list[float]:
        f = [cos(pi / 2 * (i / steps + self.s) / (1 + self.s)) ** 2 for i in range(steps + 1)]
        return [min(1 - after / before, 0.999) for before, after in pairwise(f)]
