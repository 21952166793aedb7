"""DPM-Solver and DPM-Solver++: exponential integrators in lambda = log(alpha / sigma)."""

from collections.abc import Sequence
from itertools import pairwise
from math import exp, expm1, sqrt
from typing import Annotated

from annotated_types import Interval
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import NonNegative, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.node import Node, ddim_step, node_at, steppable
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler, denoise
from oboro.schedule import Schedule

Order = Annotated[int, Interval(ge=1, le=3)]


def half_way(schedule: Schedule, t: Node, s: Node) -> Node:
    """The node in the middle between the lambdas of ``t`` and ``s``."""
    return node_at(schedule, (t.half_log_snr + s.half_log_snr) / 2)


def exponential_step(x: Tensor, change: Tensor, t: Node, s: Node, eta: float, noise: Noise) -> Tensor:
    """sigma_s/sigma_t e^{-eta h} x + alpha_s ``change`` + sigma_s sqrt(1 - e^{-2 eta h}) z, h = lambda_s - lambda_t.

    z is the increment of the sample's Brownian motion over the step, so that more steps see the same path.
    """
    h = s.half_log_snr - t.half_log_snr
    x = s.sigma / t.sigma * (exp(-eta * h) if eta else 1.0) * x + s.alpha * change
    if eta and s.sigma > 0:
        x = x + s.sigma * sqrt(-expm1(-2 * eta * h)) * noise.between(x, s.angle, t.angle)
    return x


class DPMSolverPP(Sampler):
    """DPM-Solver++(1M, 2M, 3M): multistep of ``solver_order`` 1, 2 or 3 in lambda, one evaluation a step.

    x_s = sigma_s/sigma_t e^{-eta h} x_t + alpha_s ((1 - e^{-k}) D_t + phi_1 d_1 + phi_2 d_2) + noise with
    h = lambda_s - lambda_t and k = (1 + eta) h. Order 2: d_1 = h / h' (D_t - D_{t'}) with t' the node before t and
    h' = lambda_t - lambda_{t'}, phi_1 = (1 - e^{-k}) / 2. Order 3: phi_1 = 1 - (1 - e^{-k}) / k,
    phi_2 = 1/2 - phi_1 / k, with d_1 = h D' and d_2 = h² D''/2 of the parabola through the last three D.
    Lu et al. 2022 (arXiv:2211.01095, algorithm 2 and app. B), with d_1, d_2 and eta as in k-diffusion. The second step
    of 3M, which has one earlier D, is that of order 2, as in diffusers; k-diffusion gives its slope the weight
    1 - (1 - e^{-k}) / k. They differ by less than their errors: on exact flows the one here is up to 1 % better at 6
    steps, and from 15 on they share three digits.

    eta = 0 is the ODE, eta = 1 the SDE (SDE-DPM-Solver++), with noise of variance sigma_s² (1 - e^{-2 eta h}) from a
    Brownian motion. Steps without enough history are of lower order, and so is the last one, into data.

    The published code of 3M, and with it this class, gives d_2 half the weight 1 - 2 phi_1 / k of the exact integral
    (diffusers' SDE of order 3 has its sign reversed besides). So 3M is more exact than 2M but converges with order 2
    like it; ``UniPC`` has the exact integral.
    """

    def __init__(
        self,
        steps: Steps = 20,
        solver_order: Order = 2,
        eta: NonNegative = 0.0,
        grid: Grid = UNIFORM,
    ):
        super().__init__(steps, grid)
        if solver_order not in (1, 2, 3):
            raise UserError(f"DPMSolverPP has orders 1 to 3 and got {solver_order}; change sampler.solver_order.")
        self.solver_order = solver_order
        self.eta = eta

    @property
    def order(self) -> int:
        return min(self.solver_order, 2)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        earlier: list[tuple[Tensor, float]] = []  # D and the width of the step after it, the newest first
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            h = s.half_log_snr - t.half_log_snr
            known = earlier if steppable(t, s) else []
            x = exponential_step(x, self._change(x0, h, known), t, s, self.eta, noise)
            earlier = [(x0, h), *earlier][: self.solver_order - 1] if t.alpha > 0 else []
        return x

    def _change(self, x0: Tensor, h: float, earlier: Sequence[tuple[Tensor, float]]) -> Tensor:
        k = (1 + self.eta) * h
        change = -expm1(-k) * x0
        if not earlier:
            return change
        (x1, h1), *older = earlier
        slope = h / h1 * (x0 - x1)
        if not older:
            return change - expm1(-k) / 2 * slope
        (x2, h2) = older[0]
        older_slope = h / h2 * (x1 - x2)
        bend = h / (h1 + h2) * (slope - older_slope)
        phi_1 = 1 + expm1(-k) / k
        return change + phi_1 * (slope + h1 / (h1 + h2) * (slope - older_slope)) + (0.5 - phi_1 / k) * bend


class DPMSolverPP2S(Sampler):
    """DPM-Solver++(2S): x̂0 at the middle of the step in lambda, two evaluations a step.

    u = sigma_m/sigma_t x_t + alpha_m (1 - e^{-h/2}) D_t, x_s = sigma_s/sigma_t x_t + alpha_s (1 - e^{-h}) D(u, m).
    Lu et al. 2022 (arXiv:2211.01095, algorithm 1 with r = 1/2). ``eta`` = 1 solves the SDE: both stages carry noise, of
    one Brownian motion, as ``DPMSolverPP`` does. Steps from where no signal is left and into data are DDIM's.

    Between 0 and 1 ``eta`` is that of ``DPMSolverPP`` and of k-diffusion's 2M and 3M: it scales the variance rate of
    the SDE, sigma_s² (1 - e^{-2 eta h}) a step. In k-diffusion's own 2S SDE it is DDIM's (arXiv:2010.02502, eq. 16),
    which scales the standard deviation: eta² sigma_s² (1 - e^{-2h}). The two agree at 0 and 1; for short steps its eta
    is the square root of this one.
    """

    order = 2

    def __init__(self, steps: Steps = 10, eta: NonNegative = 0.0, grid: Grid = UNIFORM):
        super().__init__(steps, grid)
        self.eta = eta

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def evaluations(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> int:
        return sum(1 + steppable(t, s) for t, s in pairwise(self.nodes(schedule, start, stop)))

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            if steppable(t, s):
                m = half_way(denoiser.schedule, t, s)
                x0 = denoise(denoiser, self._step(x, x0, t, m, noise), m.t, cond)
            x = self._step(x, x0, t, s, noise)
        return x

    def _step(self, x: Tensor, x0: Tensor, t: Node, s: Node, noise: Noise) -> Tensor:
        k = (1 + self.eta) * (s.half_log_snr - t.half_log_snr)
        return exponential_step(x, -expm1(-k) * x0, t, s, self.eta, noise)


class DPMSolver2(Sampler):
    """DPM-Solver-2: eps̃ at the middle of the step in lambda, two evaluations a step.

    In z = x / alpha and rho = sigma / alpha: z_s = z_t + (rho_s - rho_t) eps̃_m, with eps̃_m at the Euler step to
    rho_m = sqrt(rho_t rho_s). Lu et al. 2022 (arXiv:2206.00927, algorithm 1); EDM names it among its peers. Steps from
    where no signal is left and into data are DDIM's.
    """

    order = 2

    def __init__(self, steps: Steps = 10, grid: Grid = UNIFORM):
        super().__init__(steps, grid)

    def evaluations(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> int:
        return sum(1 + steppable(t, s) for t, s in pairwise(self.nodes(schedule, start, stop)))

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        for t, s in pairwise(grid):
            x0 = denoise(denoiser, x, t.t, cond)
            if not steppable(t, s):
                x = ddim_step(x, x0, t, s)
                continue
            m = half_way(denoiser.schedule, t, s)
            u = ddim_step(x, x0, t, m)
            eps = (x - t.alpha * x0) / t.sigma
            eps_m = (u - m.alpha * denoise(denoiser, u, m.t, cond)) / m.sigma
            x = ddim_step(x, x0, t, s) + s.alpha * (s.ratio - t.ratio) * (eps_m - eps)
        return x
