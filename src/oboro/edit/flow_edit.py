"""Editing along the difference of two flows, without inversion."""

from itertools import pairwise

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Count, PositiveShare, Share
from oboro.base.seeding import SampleNoise
from oboro.edit.edit import Edit, Model, Pictures, walked
from oboro.sampler import ddim_step, denoise


class FlowEdit(Edit):
    """d_s = (sigma_s / sigma_t) d_t + (alpha_s - alpha_t sigma_s / sigma_t) (D(z + d_t, target) - D(z, source)).

    d is how far the noisy edit is from the noisy picture z = alpha_t x + sigma_t eps, with fresh eps at each step; it
    is 0 at t = ``strength``, and x + d_0 is the edit. That is the step of DDIM for the difference of the two flows. On
    the linear schedule d_s = d_t + (s - t) (v(z + d_t, target) - v(z, source)): FlowEdit (Kulikov et al. 2024,
    arXiv:2412.08629, algorithm 1), whose z_edit is x + d. Written with x̂0 it serves every schedule: z / alpha and
    d / alpha know sigma / alpha alone.

    The difference is the mean over ``averages`` draws of eps (the paper's n_avg). ``strength`` is its n_max / T, 33 of
    50 with SD3; below t = ``sample_below``, its n_min / T, the target alone is sampled from z + d. ``source_scale`` is
    the guidance scale under the source (3.5 with SD3, and 13.5 for the target). Equal conditions and scales give x.
    """

    def __init__(
        self,
        strength: PositiveShare = 0.66,
        source_scale: float = 1.0,
        averages: Count = 1,
        sample_below: Share = 0.0,
    ):
        super().__init__(source_scale)
        if sample_below >= strength:
            raise UserError(
                f"edit.sample_below={sample_below:g} leaves no step from edit.strength={strength:g}; lower it."
            )
        self.strength = strength
        self.averages = averages
        self.sample_below = sample_below

    @torch.no_grad()
    def __call__(self, model: Model, pictures: Pictures) -> Tensor:
        x, grid = pictures.x, model.nodes(self.strength, self.sample_below)
        noise = SampleNoise(pictures.seed, pictures.ids)
        source, target = (model.guided(guidance, grid) for guidance in (self.source_guidance, model.guidance))
        d = torch.zeros_like(x)
        for t, s in pairwise(grid):
            change = torch.zeros_like(x)
            for _ in range(self.averages):
                z = t.alpha * x + t.sigma * noise(x)
                edited = denoise(target, z + d, t.t, pictures.target, s)
                change = change + (edited - denoise(source, z, t.t, pictures.source, s)) / self.averages
            d = ddim_step(d, change, t, s)
        if self.sample_below == 0:
            return x + d
        x_t = grid[-1].alpha * x + grid[-1].sigma * noise(x) + d
        return walked(model, pictures, pictures.target, model.guidance, x_t=x_t, start=self.sample_below)

    def check(self, model: Model, drawn: bool) -> None:
        sampler = model.sampler
        if sampler.stochastic or sampler.order != 1 or not sampler.walks_grid:
            raise UserError(
                f"edit=flow_edit takes steps of first order without noise, and {type(sampler).__name__} as set takes "
                "others; choose sampler=ddim sampler.steps=50."
            )

    def evaluations(self, model: Model) -> int:
        steps = len(model.nodes(self.strength, self.sample_below)) - 1
        return 2 * self.averages * steps + model.evaluations(self.sample_below)
