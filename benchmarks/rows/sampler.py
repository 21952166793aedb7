"""What a step of a sampler takes beside the network: batch 1, in one thread."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from oboro import sampler as samplers
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.parameterization import Eps
from oboro.schedule import VP
from rows.row import Contender, Row

STEPS = 100
row = Row(f"{STEPS} steps of a sampler beside a network that costs nothing, batch 1, one thread", 20, threads=1)
row.against = {f"oboro_{name}": f"diffusers_{name}" for name in ("ddim", "dpm_2m", "unipc")}


class Nothing(torch.nn.Module):
    def forward(self, x: Tensor, c_noise: Tensor, signals: Any) -> Tensor:
        return x


def ours(solver: Callable[..., Any]) -> Contender:
    denoiser, sampler = Denoiser(Nothing(), VP(), Eps()), solver(steps=STEPS)
    x = torch.randn(1, 3, 8, 8)

    @torch.no_grad()
    def draw() -> None:
        sampler(denoiser, x, Condition(), SampleNoise(0, [0]))

    return draw


def theirs(scheduler: Any) -> Contender:
    scheduler.set_timesteps(STEPS)
    start = torch.randn(1, 3, 8, 8)

    @torch.no_grad()
    def draw() -> None:
        scheduler.set_timesteps(STEPS)
        x = start
        for t in scheduler.timesteps:
            x = scheduler.step(scheduler.scale_model_input(x, t), t, x).prev_sample

    return draw


@row.contender
def diffusers_ddim() -> Contender:
    return theirs(diffusers.DDIMScheduler(1000))


@row.contender
def diffusers_dpm_2m() -> Contender:
    return theirs(diffusers.DPMSolverMultistepScheduler(1000))


@row.contender
def diffusers_unipc() -> Contender:
    return theirs(diffusers.UniPCMultistepScheduler(1000))


@row.contender
def oboro_ddim() -> Contender:
    return ours(samplers.DDIM)


@row.contender
def oboro_dpm_2m() -> Contender:
    return ours(samplers.DPMSolverPP)


@row.contender
def oboro_unipc() -> Contender:
    return ours(samplers.UniPC)
