"""Generators of one step, whose network reads a few numbers of the noise x_1: a GAN's generator, a VAE's decoder.

Such a network is a ``Denoiser`` that is asked at t = 1 alone. It declares ``latent``, the count of the numbers z that
it reads, which are the first of x_1; one that has learned to encode, too, has ``encode(x, signals)``, the mean and the
log-variance of q(z | x), (B, latent) each.
"""

from typing import Any

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.condition import Condition, check_read
from oboro.denoiser.denoiser import Denoiser


def encodes(network: nn.Module) -> bool:
    """Whether ``network`` knows the z of a sample."""
    return hasattr(network, "encode") and hasattr(network, "latent")


def encode(denoiser: Denoiser, x: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z | x), (B, latent) each, of data ``x`` (B, ...)."""
    network: Any = denoiser.network
    if not encodes(network):
        raise UserError(f"{type(network).__name__} has no encoder; choose model=vae with loss=variational.")
    check_read(cond.signals, network)
    return network.encode(x, cond.signals)


def decode(denoiser: Denoiser, z: Tensor, shape: tuple[int, ...], cond: Condition) -> Tensor:
    """x̂0 (B, *shape) of latents ``z`` (B, latent): what one step of a sampler makes of an x_1 that begins with
    sigma_1 z."""
    eps = z.new_zeros(len(z), *shape)
    eps.flatten(1)[:, : z.shape[1]] = z
    return denoiser(denoiser.schedule.prior(eps), z.new_ones(len(z)), cond)


def reconstruct(denoiser: Denoiser, x: Tensor, cond: Condition) -> Tensor:
    """x̂0 (B, ...) of the mean of q(z | x): nothing is drawn."""
    mean, _ = encode(denoiser, x, cond)
    return decode(denoiser, mean.to(torch.promote_types(mean.dtype, torch.float32)), tuple(x.shape[1:]), cond)
