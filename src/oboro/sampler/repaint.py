"""Inpainting that pastes what is known into x_s, and goes back to more noise to join the rest to it."""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Count, NonNegativeOrInfinite, Steps
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.measurement import Measured, measured
from oboro.sampler.ddim import ddim_eta_step
from oboro.sampler.node import Node
from oboro.sampler.sampler import UNIFORM, Grid, Noise, Sampler
from oboro.schedule import Schedule, expand_as


class RePaint(Sampler):
    """x_s = m (alpha_s y + sigma_s eps) + (1 - m) x_s of ``DDIM`` with ``eta``, of samples known to be y where m is 1.

    After each ``jump`` steps, x goes back by as many, x_t = alpha_t / alpha_s x_s + noise, and down again, until it has
    gone down ``repeats`` times: Lugmayr et al. 2022 (arXiv:2201.09865, algorithm 1, with the jumps of app. B). In x_s
    the known part is as noisy as the rest, and clean in the data at the end. ``repeats`` = 1 is replacement alone (Song
    et al. 2021, arXiv:2011.13456, app. I.2): the rest hardly knows then what it has to fit to.

    The mask is that of ``Condition.sampling["measured"]``. Raises ``UserError`` for measurements that are no masks or
    have noise.
    """

    order = 1

    def __init__(
        self,
        steps: Steps = 250,
        jump: Count = 10,
        repeats: Count = 10,
        eta: NonNegativeOrInfinite = 1.0,
        grid: Grid = UNIFORM,
    ):
        super().__init__(steps, grid)
        self.jump = jump
        self.repeats = repeats
        self.eta = eta

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def measures(self) -> bool:
        return True

    def check_measured(self, given: Measured) -> None:
        if given.operator.known is None or given.decode is not None:
            kind = "a latent" if given.decode is not None else type(given.operator).__name__
            raise UserError(
                f"sampler=repaint pastes known pixels and {kind} has none; choose measurement=mask_box or another "
                "mask, or another sampler with guidance=pigdm."
            )
        if ((given.noise > 0) & given.noise.isfinite()).any():
            raise UserError(
                "sampler=repaint pastes known pixels as they are and these are noisy; choose another sampler with "
                "guidance=pigdm, or leave measurement_noise out."
            )

    def evaluations(self, schedule: Schedule, start: float = 1.0, stop: float = 0.0) -> int:
        return sum(1 for t, s in self._way(self.nodes(schedule, start, stop)) if s.t < t.t)

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        given = measured(cond)
        self.check_measured(given)
        pixels = given.operator.known
        assert pixels is not None  # as was checked
        known = pixels & expand_as(given.noise == 0, given.y)
        for t, s in self._way(grid):
            if s.t > t.t:
                x = (s.alpha / t.alpha) * x + sqrt(s.sigma**2 - (s.alpha / t.alpha * t.sigma) ** 2) * noise(x)
                continue
            x = ddim_eta_step(denoiser, x, t, s, self.eta, cond, noise)
            there = s.alpha * given.y.to(x)
            x = torch.where(known, there + s.sigma * noise(x) if s.sigma > 0 else there, x)
        return x

    def _way(self, grid: Sequence[Node]) -> list[tuple[Node, Node]]:
        """All steps, down and back. A way back is one step and leads from any node but the first ones, where it would
        end in the noise of the beginning."""
        way: list[tuple[Node, Node]] = []
        last = len(grid) - 1
        for k in range(1, len(grid)):
            way.append((grid[k - 1], grid[k]))
            top = k - self.jump
            if (last - k) % self.jump == 0 and top > 0:
                down = list(pairwise(grid[top : k + 1]))
                way += [(grid[k], grid[top]), *down] * (self.repeats - 1)
        return way
