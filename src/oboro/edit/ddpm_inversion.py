"""Editing by the noise that ancestral sampling would have drawn."""

from itertools import pairwise

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import PositiveShare
from oboro.base.seeding import SampleNoise
from oboro.edit.edit import Edit, Model, Pictures
from oboro.sampler import Ancestral


class DDPMInversion(Edit):
    """Edit-friendly DDPM inversion: z = (x_s - mean(x_t, source)) / std, replayed as y_s = mean(y_t, target) + std z.

    The x_t = alpha_t x + sigma_t eps_t have a noise of their own at every t, so that the z are large and carry the
    picture (Huberman-Spiegelglas et al. 2023, arXiv:2304.06140, sec. 3.2, algorithm 1). Mean and std are those of the
    sampler's own steps: ``sampler=ddim_ancestral`` is the paper's (eta = 1), and a learned variance will do as well.
    Both walks go side by side, so no z is kept.

    ``strength`` = 1 - T_skip / T is where the walks begin. The last step, into data, draws nothing; what it misses of x
    under the source is added under the target. So under equal conditions and scales the picture comes back, to
    rounding, whatever they are. ``source_scale`` is the guidance scale under the source.
    """

    def __init__(self, strength: PositiveShare = 0.64, source_scale: float = 1.0):
        super().__init__(source_scale)
        self.strength = strength

    @torch.no_grad()
    def __call__(self, model: Model, pictures: Pictures) -> Tensor:
        x, grid, noise = pictures.x, model.nodes(self.strength), SampleNoise(pictures.seed, pictures.ids)
        sampler = ancestral(model)
        source, target = (model.guided(guidance, grid) for guidance in (self.source_guidance, model.guidance))
        x_t = grid[0].alpha * x + grid[0].sigma * noise(x)
        y = x_t
        for t, s in pairwise(grid):
            mean, std = sampler.gaussian(source, x_t, t, s, pictures.source)
            x_t = s.alpha * x + s.sigma * noise(x) if s.sigma > 0 else x
            moved, std_y = sampler.gaussian(target, y, t, s, pictures.target)
            draws = torch.is_tensor(std) or std > 0
            y = moved + (std_y * ((x_t - mean) / std) if draws else x_t - mean)
        return y

    def check(self, model: Model, drawn: bool) -> None:
        ancestral(model)

    def evaluations(self, model: Model) -> int:
        return 2 * model.evaluations(self.strength)


def ancestral(model: Model) -> Ancestral:
    """The sampler. Raises ``UserError`` unless its steps are Gaussian and draw noise."""
    sampler = model.sampler
    if not isinstance(sampler, Ancestral) or not sampler.stochastic:
        raise UserError(
            f"edit=ddpm_inversion replays the noise of Gaussian steps, and {type(sampler).__name__} as set has none; "
            "choose sampler=ddim_ancestral sampler.steps=100."
        )
    return sampler
