"""DDIM and DDPM: first-order steps, with as much fresh noise as wanted."""

from collections.abc import Sequence
from itertools import pairwise
from math import inf, sqrt

from torch import Tensor

from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.sampler import UNIFORM, Grid, Node, Noise, Sampler, denoise


def ddim_step(x: Tensor, x0: Tensor, t: Node, s: Node) -> Tensor:
    """x_s = alpha_s x̂0 + sigma_s (x_t - alpha_t x̂0) / sigma_t."""
    ratio = s.sigma / t.sigma
    return (s.alpha - t.alpha * ratio) * x0 + ratio * x


class DDIM(Sampler):
    """x_s = alpha_s x̂0 + sigma_s (sqrt(1 - tau) (x_t - alpha_t x̂0) / sigma_t + sqrt(tau) z).

    tau = min(eta² (1 - (alpha_t sigma_s / (alpha_s sigma_t))²), 1). Song et al. 2021 (arXiv:2010.02502, eq. 12, 16).
    eta = 0 is DDIM, and on the linear schedule Euler's method for the flow; eta = 1 is DDPM's ancestral sampling
    (arXiv:2006.11239, eq. 7), which in sigma / alpha is k-diffusion's ancestral Euler; eta = inf renoises x̂0 at each
    step, as multistep consistency models and LCM do (arXiv:2303.01469, algorithm 1).
    """

    order = 1

    def __init__(self, steps: int = 50, eta: float = 0.0, grid: Grid = UNIFORM):
        super().__init__(steps, grid)
        self.eta = eta

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def jumps(self) -> bool:
        return self.steps == 1 or self.eta == inf

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            tau = min(self.eta**2 * (1 - (t.alpha * s.sigma / (s.alpha * t.sigma)) ** 2), 1.0)
            if tau > 0 and s.sigma > 0:
                kept = s.sigma * sqrt(1 - tau)
                x = ddim_step(x, x0, t, s._replace(sigma=kept)) + s.sigma * sqrt(tau) * noise(x)
            else:
                x = ddim_step(x, x0, t, s)
        return x
