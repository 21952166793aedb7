"""What a few-step student draws while it is trained: x̂0 where its sampler asks for it."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from oboro.base.draws import rand, randn
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.sampler.ancestral import Ancestral
from oboro.schedule import expand_as

Start = Literal["samples", "data"]


def student_samples(
    student: Denoises, sampler: Ancestral, x: Tensor, cond: Condition, generator: torch.Generator, start: Start
) -> Tensor:
    """x̂0 (B, ...) at one of the nodes of ``sampler``, each as likely for each sample; gradients are those of this one
    evaluation.

    Where it is asked at node k depends on ``start``. ``samples``: what sampling has made of noise by then, without
    gradients; the backward simulation of DMD2 (Yin et al. 2024, arXiv:2405.14867, sec. 4.5). ``data``: alpha_k x +
    sigma_k z for data ``x`` (B, ...), as ADD (Sauer et al. 2023, arXiv:2311.17042, sec. 3.1). The first node has noise
    alone, as where sampling begins.
    """
    *grid, end = sampler.nodes(student.schedule)
    k = (rand(x.shape[:1], generator).to(x.device) * len(grid)).long().clamp(max=len(grid) - 1)
    x_t = grid[0].sigma * randn(x.shape, generator).to(x)
    if start == "data":
        z = x_t / grid[0].sigma
        signal = [0.0, *(node.alpha for node in grid[1:])]
        x_k = expand_as(x.new_tensor(signal)[k], x) * x + expand_as(x.new_tensor([n.sigma for n in grid])[k], x) * z
    else:
        x_k = x_t
        with torch.no_grad():
            for i, (t, s) in enumerate(pairwise(grid), start=1):
                x_t, std = sampler.gaussian(student, x_t, t, s, cond)
                x_t = x_t + std * randn(x.shape, generator).to(x)
                x_k = torch.where(expand_as(k == i, x), x_t, x_k)
    return student.towards(end.alpha, end.sigma)(x_k, x.new_tensor([node.t for node in grid])[k], cond)
