"""Denoisers that are known exactly: what samplers, losses and likelihoods are held against; also for teaching."""

from math import sqrt

import torch
from torch import Tensor, nn

from oboro.condition import Condition
from oboro.schedule import Schedule, expand_as


class GaussianDenoiser(nn.Module):
    """The exact denoiser of data N(mean, std²), elementwise.

    D(x_t, t) = mean + alpha std² / (alpha² std² + sigma²) (x_t - alpha mean). ``with_variance`` gives the v that
    is exact for short steps, Var[x | x_t] (alpha² + sigma²) / sigma² with Var[x | x_t] = std² sigma² / (alpha² std² +
    sigma²): 1 for std = 1.
    """

    def __init__(self, mean: float | Tensor, std: float | Tensor, schedule: Schedule):
        super().__init__()
        self.mean = mean
        self.std = std
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        alpha, sigma = self.schedule(expand_as(t, x_t))
        return self.mean + alpha * self.std**2 / ((alpha * self.std) ** 2 + sigma**2) * (x_t - alpha * self.mean)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(expand_as(t, x_t))
        v = self.std**2 * (alpha**2 + sigma**2) / ((alpha * self.std) ** 2 + sigma**2)
        return self(x_t, t, cond), torch.as_tensor(v).expand_as(x_t)

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> "GaussianDenoiser":
        return self

    def reschedule(self, schedule: Schedule) -> "GaussianDenoiser":
        return GaussianDenoiser(self.mean, self.std, schedule)

    def flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The exact probability-flow map from time ``t`` (B,) to ``s`` (B,).

        x_s = alpha_s mean + sqrt(alpha_s² std² + sigma_s²) / sqrt(alpha_t² std² + sigma_t²) (x_t - alpha_t mean): the
        ODE of Song et al. 2021 (arXiv:2011.13456, eq. 13) keeps the quantile of every marginal.
        """
        (a, sigma_t), (b, sigma_s) = self.schedule(expand_as(t, x_t)), self.schedule(expand_as(s, x_t))
        ratio = torch.sqrt(((b * self.std) ** 2 + sigma_s**2) / ((a * self.std) ** 2 + sigma_t**2))
        return b * self.mean + ratio * (x_t - a * self.mean)


class GaussianFlowMap(nn.Module):
    """The exact flow map of data N(mean, std²), elementwise: x̂0 whose DDIM step from t to ``end`` is ``exact.flow``.

    x̂0 = mean + k (x_t - alpha_t mean), k = std² (alpha_s sigma_t + alpha_t sigma_s) / (v_t (sigma_t v_s + sigma_s v_t))
    with v² = alpha² std² + sigma²: the two differences of the unique x̂0 (``Denoises.towards``) with their common factor
    taken out. At s = t, and without an ``end``, k is that of ``GaussianDenoiser``.
    """

    def __init__(self, exact: GaussianDenoiser, end: tuple[float | Tensor, float | Tensor] | None = None):
        super().__init__()
        self.exact = exact
        self.schedule = exact.schedule
        self.end = end

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> "GaussianFlowMap":
        return GaussianFlowMap(self.exact, (alpha, sigma))

    def reschedule(self, schedule: Schedule) -> "GaussianFlowMap":
        return GaussianFlowMap(self.exact.reschedule(schedule), self.end)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        mean, std = self.exact.mean, self.exact.std
        b, sigma_s = a, sigma_t = self.schedule(expand_as(t, x_t))
        if self.end is not None:
            b, sigma_s = (expand_as(torch.as_tensor(c, dtype=x_t.dtype, device=x_t.device), x_t) for c in self.end)
        v_t, v_s = torch.sqrt((a * std) ** 2 + sigma_t**2), torch.sqrt((b * std) ** 2 + sigma_s**2)
        k = std**2 * (b * sigma_t + a * sigma_s) / (v_t * (sigma_t * v_s + sigma_s * v_t))
        return mean + k * (x_t - a * mean)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        return self(x_t, t, cond), self.exact.with_variance(x_t, t, cond)[1]


class MixtureDenoiser(nn.Module):
    """The exact denoiser of data sum_k w_k N(mean_k, std²), elementwise: every number is drawn on its own.

    D(x_t, t) = sum_k r_k (mean_k + g (x_t - alpha mean_k)) with g = alpha std² / (alpha² std² + sigma²) and r_k the
    share of component k in the density of x_t. ``with_variance`` gives v = Var[x | x_t] (alpha² + sigma²) / sigma², as
    ``GaussianDenoiser`` does.
    """

    def __init__(self, weights: Tensor, means: Tensor, std: float, schedule: Schedule):
        super().__init__()
        self.weights = weights / weights.sum()
        self.means = means
        self.std = std
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        share, means = self._posterior(x_t, t)
        return (share * means).sum(-1)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(expand_as(t, x_t))
        share, means = self._posterior(x_t, t)
        x0 = (share * means).sum(-1)
        between = (share * (means - x0[..., None]) ** 2).sum(-1)
        within = self.std**2 / ((alpha * self.std) ** 2 + sigma**2)  # over sigma²
        return x0, (alpha**2 + sigma**2) * (within + between / sigma**2)

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> "MixtureDenoiser":
        return self

    def reschedule(self, schedule: Schedule) -> "MixtureDenoiser":
        return MixtureDenoiser(self.weights, self.means, self.std, schedule)

    def _posterior(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """r_k and the mean of x given x_t and k, (B, ..., K)."""
        alpha, sigma = (c[..., None] for c in self.schedule(expand_as(t, x_t)))
        variance = (alpha * self.std) ** 2 + sigma**2
        away = x_t[..., None] - alpha * self.means
        share = (self.weights.log() - away**2 / (2 * variance)).softmax(-1)
        return share, self.means + alpha * self.std**2 / variance * away

    def flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The exact probability-flow map from time ``t`` (B,) to ``s`` (B,), which keeps the quantile of each marginal.

        By bisection on the distribution function, to the last bits of float64.
        """
        (a, sigma_t), (b, sigma_s) = self.schedule(expand_as(t, x_t)), self.schedule(expand_as(s, x_t))
        right = x_t > a * (self.weights * self.means).sum()
        tail = self._tail(x_t, a, sigma_t, right)
        reach = b * self.means.abs().max() + 12 * torch.sqrt((b * self.std) ** 2 + sigma_s**2)
        low, high = (-reach).expand_as(x_t).clone(), reach.expand_as(x_t).clone()
        for _ in range(100):
            middle = (low + high) / 2
            further = self._tail(middle, b, sigma_s, right)
            below = torch.where(right, further > tail, further < tail)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def _tail(self, x: Tensor, alpha: Tensor, sigma: Tensor, right: Tensor) -> Tensor:
        """P(x_t > x) where ``right``, else P(x_t < x): the small one of the two keeps its digits."""
        std = torch.sqrt((alpha * self.std) ** 2 + sigma**2)[..., None]
        z = (x[..., None] - alpha[..., None] * self.means) / std
        z = torch.where(right[..., None], -z, z)
        return (self.weights * torch.special.erfc(-z / sqrt(2))).sum(-1) / 2
