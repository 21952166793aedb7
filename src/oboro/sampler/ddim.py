"""DDIM and DDPM: first-order steps, with as much fresh noise as wanted."""

from math import inf, sqrt

from torch import Tensor

from oboro.base.ranges import NonNegativeOrInfinite, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.ancestral import Ancestral
from oboro.sampler.node import Node, ddim_step
from oboro.sampler.sampler import UNIFORM, Grid, Noise, denoise


class DDIM(Ancestral):
    """x_s = alpha_s x̂0 + sigma_s (sqrt(1 - tau) (x_t - alpha_t x̂0) / sigma_t + sqrt(tau) z).

    tau = min(eta² (1 - (alpha_t sigma_s / (alpha_s sigma_t))²), 1). Song et al. 2021 (arXiv:2010.02502, eq. 12, 16).
    eta = 0 is DDIM, and on the linear schedule Euler's method for the flow; eta = 1 is DDPM's ancestral sampling
    (arXiv:2006.11239, eq. 7), which in sigma / alpha is k-diffusion's ancestral Euler; eta = inf renoises x̂0 at each
    step, as multistep consistency models and LCM do (arXiv:2303.01469, algorithm 1).

    A flow map jumps along the flow to (alpha_s, sigma_s sqrt(1 - tau)), from where the noise leads to s, so that every
    number of steps is exact: the gamma-sampling of Kim et al. 2024 (arXiv:2310.02279).
    """

    order = 1

    def __init__(self, steps: Steps = 50, eta: NonNegativeOrInfinite = 0.0, grid: Grid = UNIFORM):
        super().__init__(steps, grid)
        self.eta = eta

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def jumps(self) -> bool:
        return self.steps == 1 or self.eta == inf

    @property
    def names_ends(self) -> bool:
        return True

    def gaussian(
        self, denoiser: Denoises, x: Tensor, t: Node, s: Node, cond: Condition
    ) -> tuple[Tensor, Tensor | float]:
        return gaussian_step(denoiser, x, t, s, self.eta, cond)


def gaussian_step(denoiser: Denoises, x: Tensor, t: Node, s: Node, eta: float, cond: Condition) -> tuple[Tensor, float]:
    """Mean of x_s given x_t, with one evaluation, and the std of its noise, as ``DDIM`` has them."""
    tau = min(eta**2 * (1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2), 1.0)
    fresh = tau > 0 and s.sigma > 0
    end = s._replace(sigma=s.sigma * sqrt(1 - tau)) if fresh else s
    x0 = denoise(denoiser, x, t.t, cond, end)
    return ddim_step(x, x0, t, end), s.sigma * sqrt(tau) if fresh else 0.0


def ddim_eta_step(denoiser: Denoises, x: Tensor, t: Node, s: Node, eta: float, cond: Condition, noise: Noise) -> Tensor:
    """x_s from x_t, with one evaluation, as ``DDIM`` has it."""
    x, std = gaussian_step(denoiser, x, t, s, eta, cond)
    return x + std * noise(x) if std > 0 else x
