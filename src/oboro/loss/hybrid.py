"""L_hybrid = L_simple + lambda L_vlb: a denoiser that also learns the variance of its reverse steps."""

from math import log

import torch
from torch import Tensor, nn

from oboro.base.draws import rand, randn
from oboro.base.errors import UserError
from oboro.base.ranges import NonNegative, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss.coupling import Coupling, Independent
from oboro.loss.denoising import Denoising
from oboro.loss.penalty import Penalty
from oboro.loss.time import Level, TimeDistribution, Uniform
from oboro.loss.weighting import Weight
from oboro.sampler import Posterior, posteriors
from oboro.sampler.grid import Uniform as UniformGrid
from oboro.schedule import Schedule, expand_as
from oboro.teacher import Teacher


def gaussian_kl(shift: Tensor, log_var: Tensor, log_var_of: Tensor) -> Tensor:
    """KL(N(m + shift, e^log_var) || N(m, e^log_var_of)) in nats, elementwise."""
    change = log_var - log_var_of
    return (torch.expm1(change) - change + shift**2 * torch.exp(-log_var_of)) / 2


def discretised_log_likelihood(shift: Tensor, x: Tensor, log_var: Tensor) -> Tensor:
    """log of the mass that N(x - shift, e^log_var) has in the bin of the 8-bit value ``x``, in nats, elementwise.

    x = k / 127.5 - 1; bins are 2 / 255 wide, and those of 0 and 255 reach to infinity, so that the 256 masses add up to
    1. Ho et al. 2020 (arXiv:2006.11239, eq. 13).
    """
    scale, half = torch.exp(-log_var / 2), 1 / 255
    first, last = torch.special.log_ndtr((half + shift) * scale), torch.special.log_ndtr((half - shift) * scale)
    distance = shift.abs()  # the inner bins are symmetric: this side of the mean has the digits
    far = torch.special.log_ndtr(-(distance + half) * scale)
    near = torch.special.log_ndtr((half - distance) * scale)
    inner = near + torch.log1p(-torch.exp(far - near))
    return torch.where(x < -0.999, first, torch.where(x > 0.999, last, inner))


class Shared:
    """A denoiser that keeps the v of its answer, so that a second term need not ask for it."""

    x0: Tensor
    v: Tensor

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.parameterization = denoiser.parameterization

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        self.x0, self.v = self.denoiser.with_variance(x_t, t, cond)
        return self.x0


class Hybrid(nn.Module):
    """L_simple + ``vlb_weight`` L_vlb per sample, at one of ``steps`` steps, drawn uniformly.

    Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 16). The steps are those of a sampler on the ``Uniform`` grid, and L_k
    is in bits a dimension, as in the paper's code:

        L_vlb = steps E_k[L_k]
        L_k = KL(q(x_s | x_t, x) || p(x_s | x_t)), and for the last step, into data, -log2 p(x | x_t) of an 8-bit x
        p(x_s | x_t) = N(c_x x̂0 + c_t x_t, sigma_theta²), see ``oboro.sampler.Posterior``

    The KL at t = 1, which nothing learns, is left out. L_vlb has no gradient in x̂0 and so teaches v alone, while
    L_simple = w(t) penalty(x̂0 - x) teaches x̂0; both come from one evaluation. L_vlb is a bound for data of 8 bits in
    [-1, 1]; in latents its last step takes them for such. Noise is independent of the data and times are uniform, which
    the bound asks for; ``vlb_weight`` = 0.001 is that of the paper.

    Raises ``UserError`` for no steps, and when called on a denoiser that predicts no variance.
    """

    teaches_variance = True
    teaches_jumps = False
    needs_end = False
    teacher: Teacher | None = None
    evaluations = 1

    def __init__(self, weighting: Weight, penalty: Penalty, steps: Steps = 1000, vlb_weight: NonNegative = 0.001):
        super().__init__()
        if steps < 1:
            raise UserError(f"A bound of {steps} steps is none; set loss.steps to 1 or more.")
        self.simple = Denoising(Uniform(), weighting, penalty, Independent())
        self.steps = steps
        self.vlb_weight = vlb_weight
        self._known: tuple[Schedule, Tensor, Posterior] | None = None

    @property
    def time(self) -> TimeDistribution:
        return self.simple.time

    @property
    def weighting(self) -> Weight:
        return self.simple.weighting

    @property
    def coupling(self) -> Coupling:
        return self.simple.coupling

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """Objective (B,) of ``x`` (B, ...), for training; every draw is from ``generator``, on its own device."""
        u = rand(x.shape[:1], generator)
        eps = randn(x.shape, generator).to(x)
        level, simple, vlb = self._terms(denoiser, x, cond, u.to(x), eps)
        objective, _ = self.simple.weighting.objective(level, simple)
        return objective + self.vlb_weight * vlb

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        """The loss (B,) at step floor(u steps) from the data, for ``u`` (B,) and the noise ``eps`` (B, ...)."""
        _, simple, vlb = self._terms(denoiser, x, cond, u, eps)
        return simple + self.vlb_weight * vlb

    def _terms(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor
    ) -> tuple[Level, Tensor, Tensor]:
        """The noise levels, L_simple and L_vlb (B,)."""
        times, table = self._table(denoiser.schedule)  # from noise to data
        step = (self.steps - 1 - (u * self.steps).long()).clamp(0, self.steps - 1)
        t = times.to(x)[step]
        shared = Shared(denoiser)
        simple = self.simple.at_quantile(shared, x, cond, t, eps)  # type: ignore[arg-type]  # of uniform times t is the quantile
        q = table.at(step, x)
        log_var = q.log_variance(shared.v)
        last, shift = expand_as(step == self.steps - 1, x), x - shared.x0.detach()
        kl = gaussian_kl(q.c_x * shift, q.low, log_var)
        # Elsewhere x̂0 may be so far off that the mass of a bin is lost in rounding, and with it the gradient.
        decoder = discretised_log_likelihood(torch.where(last, shift, 0.0), x, log_var)
        nats = torch.where(last, -decoder, kl).flatten(1).mean(1)
        return self.simple.level(denoiser, t), simple, self.steps / log(2) * nats

    def _table(self, schedule: Schedule) -> tuple[Tensor, Posterior]:
        """The times of the steps and their posteriors; of the latest schedule they are kept."""
        if self._known is None or self._known[0] is not schedule or len(self._known[1]) != self.steps:
            grid = UniformGrid()(schedule, self.steps)
            self._known = schedule, torch.tensor([node.t for node in grid[:-1]]), posteriors(grid)
        return self._known[1:]
