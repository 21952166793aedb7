"""Images from a denoiser, where image ``i`` depends on (seed, i) alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.codec import Identity
from oboro.denoiser import Cond, Denoises
from oboro.guidance import Guidance
from oboro.sampler import Sampler
from oboro.seeding import SampleNoise


@torch.no_grad()
def generate(
    denoiser: Denoises,
    guidance: Guidance,
    sampler: Sampler,
    codec: Identity,
    *,
    ids: Sequence[int],
    seed: int,
    cond: Cond,
    latent_shape: tuple[int, int, int],
    device: torch.device,
) -> Tensor:
    """Images (len(ids), C, H, W) in [-1, 1], float32. ``cond`` belongs to ``ids``.

    x_T and every later draw come from per-sample CPU generators, so they are the same on every type of device.
    """
    noise = SampleNoise(seed, ids)
    x_T = denoiser.schedule.prior(noise(torch.empty(len(ids), *latent_shape, device=device)))
    cond = {k: v.to(device) for k, v in cond.items()}
    guided = guidance(denoiser, sampler.nodes(denoiser.schedule))
    return codec.decode(sampler(guided, x_T, cond, noise)).float().clamp(-1, 1)
