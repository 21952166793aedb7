"""Samplers whose steps are Gaussian given where they begin."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.node import Node
from oboro.sampler.sampler import Noise, Sampler


class Ancestral(Sampler):
    """x_s = mean + std z with fresh noise z; mean and std are functions of x_t alone, without memory."""

    @abstractmethod
    def gaussian(
        self, denoiser: Denoises, x: Tensor, t: Node, s: Node, cond: Condition
    ) -> tuple[Tensor, Tensor | float]:
        """Mean and std of x_s given ``x`` (B, ...) at ``t``; a std of 0.0 draws nothing."""

    def solve(self, denoiser: Denoises, x: Tensor, grid: Sequence[Node], cond: Condition, noise: Noise) -> Tensor:
        for t, s in pairwise(grid):
            x, std = self.gaussian(denoiser, x, t, s, cond)
            if torch.is_tensor(std) or std > 0:
                x = x + std * noise(x)
        return x
