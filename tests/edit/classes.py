"""The exact denoiser of Gaussian classes."""

import torch
from torch import Tensor, nn

from oboro.condition import Condition, Label
from oboro.schedule import Schedule, expand_as


class Classes(nn.Module):
    """Data of class k are N(means[k], std²); the last mean is that of no label."""

    def __init__(self, means: list[float], std: float, schedule: Schedule):
        super().__init__()
        self.means = torch.tensor(means, dtype=torch.float64)
        self.std = std
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        label = cond.signals.get("label", Label(torch.full((len(x_t),), -1)))
        mean = expand_as(self.means[label.index], x_t)
        alpha, sigma = self.schedule(expand_as(t, x_t))
        return mean + alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2) * (x_t - alpha * mean)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(expand_as(t, x_t))
        v = self.std**2 * (alpha**2 + sigma**2) / ((alpha * self.std) ** 2 + sigma**2)
        return self(x_t, t, cond), v.expand_as(x_t)

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> "Classes":
        return self


def of_class(k: int, n: int) -> Condition:
    return Condition.of(label=Label(torch.full((n,), k)))
