"""Time grids: where the steps of a sampler lie.

Levels of noise are given as rho = sigma / alpha, so that one grid means the same on every schedule; where a level lies
beyond an end of the schedule, that end takes its place.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import CountOrNone, Entries, Positive, Share
from oboro.sampler.sampler import Grid, Uniform, UniformToData
from oboro.schedule import Schedule

__all__ = ["Grid", "Karras", "Leading", "Linspace", "LogSNR", "Quadratic", "Sigmas", "Times", "Trailing"]
__all__ += ["Uniform", "UniformToData"]


def fractions(steps: int) -> Tensor:
    """i / (steps - 1), float64, i = 0 … steps - 1; 0 alone for a single step."""
    return torch.linspace(0, 1, steps, dtype=torch.float64, device="cpu")


def times_of(schedule: Schedule, log_snr: Tensor) -> list[float]:
    return schedule.t_from_log_snr(log_snr).clamp(0, 1).tolist()


def log_snr_range(schedule: Schedule, low: float, high: float) -> tuple[float, float]:
    """[low, high] cut to what the schedule covers."""
    first, last = schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")).tolist()
    return max(low, last), min(high, first)


class Quadratic(Grid):
    """t = (1 - i/steps)²: more steps near data. DDIM (arXiv:2010.02502, app. D.2) uses it on CIFAR-10."""

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        return [t**2 for t in Uniform().times(schedule, steps)]


class Karras(Grid):
    """rho_i = (sigma_max^{1/rho} + i/(steps-1) (sigma_min^{1/rho} - sigma_max^{1/rho}))^rho.

    Karras et al. 2022 (arXiv:2206.00364, eq. 5). ``sigma_min``, ``sigma_max`` in units of sigma / alpha.
    """

    def __init__(self, sigma_min: Positive = 0.002, sigma_max: Positive = 80.0, rho: Positive = 7.0):
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.rho = rho

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        wanted = -2 * torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64, device="cpu").log()
        low, high = log_snr_range(schedule, *wanted.tolist())
        first, last = torch.tensor([low, high], dtype=torch.float64, device="cpu").mul(-0.5 / self.rho).exp()
        return times_of(schedule, -2 * self.rho * torch.log(first + fractions(steps) * (last - first)))


class LogSNR(Grid):
    """Uniform in log-SNR, from ``low`` to ``high``: the grid of DPM-Solver (arXiv:2206.00927, sec. 3.4).

    In sigma / alpha it is geometric, which other programs call exponential.
    """

    def __init__(self, low: float = -10.0, high: float = 10.0):
        self.low = low
        self.high = high

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        low, high = log_snr_range(schedule, self.low, self.high)
        return times_of(schedule, low + fractions(steps) * (high - low))


def falling(values: Sequence[float]) -> bool:
    return all(after < before for before, after in pairwise(values))


class Listed(Grid):
    """A list of values of which the last is where the data are taken to be: n + 1 values are a grid of n steps.

    For another number of steps the list is interpolated linearly in i / n.
    """

    @property
    @abstractmethod
    def listed_steps(self) -> int: ...

    def interpolated(self, values: Sequence[float], steps: int) -> Tensor:
        """``steps`` values, float64, without the last one, that of the data."""
        known = torch.tensor(list(values), dtype=torch.float64, device="cpu")
        if steps + 1 == len(known):
            return known[:-1]
        position = torch.arange(steps, dtype=torch.float64, device="cpu") * ((len(known) - 1) / steps)
        left = position.long()
        return torch.lerp(known[left], known[left + 1], position - left)

    @abstractmethod
    def times(self, schedule: Schedule, steps: int) -> list[float]: ...


class Sigmas(Listed):
    """Levels of noise sigma / alpha, decreasing; interpolated in their logarithm.

    The form in which Align Your Steps (Sabour et al. 2024, arXiv:2404.14507) is published, with its interpolation.
    """

    def __init__(self, sigmas: Annotated[Sequence[Positive], Len(2, 100_000)]):
        if len(sigmas) < 2 or min(sigmas) <= 0 or not falling(sigmas):
            raise UserError(
                f"sampler.grid.sigmas={list(sigmas)} is no decreasing list of two or more positive levels; change it."
            )
        self.sigmas = list(sigmas)

    @property
    def listed_steps(self) -> int:
        return len(self.sigmas) - 1

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        logs = torch.tensor(self.sigmas, dtype=torch.float64, device="cpu").log().tolist()
        return times_of(schedule, -2 * self.interpolated(logs, steps))


class Times(Listed):
    """Times in [0, 1], decreasing, of which the last is that of the data."""

    def __init__(self, times: Annotated[Sequence[Share], Len(2, 100_000)]):
        if len(times) < 2 or not (falling(times) and times[0] <= 1 and times[-1] >= 0):
            raise UserError(
                f"sampler.grid.times={list(times)} is no decreasing list of two or more times in [0, 1]; change it."
            )
        self.listed = list(times)

    @property
    def listed_steps(self) -> int:
        return len(self.listed) - 1

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        return self.interpolated(self.listed, steps).tolist()


class Spacing(Grid):
    """Indices of a table of ``count`` noise levels, as discrete models count them: index i is t = (i + 1) / count."""

    def __init__(self, count: Entries = 1000):
        self.count = count

    @abstractmethod
    def indices(self, steps: int) -> Tensor:
        """Float64 whole numbers, decreasing, from 0 to ``count`` - 1."""

    def times(self, schedule: Schedule, steps: int) -> list[float]:
        return ((self.indices(steps) + 1) / self.count).tolist()


class Leading(Spacing):
    """i = (steps - 1 - k) floor(count / steps) + ``offset``: DDPM's and DDIM's; never visits the noisiest levels.

    Stable Diffusion has offset 1. Lin et al. 2023 (arXiv:2305.08891, table 2) name the three spacings.
    """

    def __init__(self, count: Entries = 1000, offset: CountOrNone = 0):
        super().__init__(count)
        self.offset = offset

    def indices(self, steps: int) -> Tensor:
        k = torch.arange(steps - 1, -1, -1, dtype=torch.float64, device="cpu")
        return k * (self.count // steps) + self.offset


class Trailing(Spacing):
    """i = round(count - k count / steps) - 1: starts at the last level, whatever the number of steps."""

    def indices(self, steps: int) -> Tensor:
        k = torch.arange(steps, dtype=torch.float64, device="cpu")
        return torch.round(self.count - k * (self.count / steps)) - 1


class Linspace(Spacing):
    """i = round((count - 1) (1 - k / (steps - 1))): visits the first and the last level."""

    def indices(self, steps: int) -> Tensor:
        return torch.round((self.count - 1) * (1 - fractions(steps)))
