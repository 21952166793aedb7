"""The evidence lower bound of a variational autoencoder."""

from math import log, pi
from typing import ClassVar

import torch
from torch import Tensor, nn

from oboro.base.draws import randn
from oboro.base.ranges import Positive
from oboro.codec.autoencoder import kl
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.denoiser.latent import decode, encode
from oboro.loss.coupling import Coupling, Independent
from oboro.teacher import Teacher


class Variational(nn.Module):
    """-ELBO / n in nats for each of the n numbers of a sample, with p(x | z) = N(D(z), std² I), one z ~ q(z | x):

        (|x - D(z)|² / (2 std²) + n log(std sqrt(2 pi)) + KL(q(z | x) || N(0, I))) / n.

    Kingma & Welling 2014 (arXiv:1312.6114, eq. 10). ``std`` is in the units of the data and weighs the error against
    the divergence; with ``learn_std`` it is where training begins, and then becomes the root mean square of the error,
    where the bound is highest: sigma-VAE (Rybkin et al. 2021, arXiv:2006.13202, sec. 3). Samples are D(z) with z from
    N(0, I), without the noise of p(x | z).

    Validation tells the same at held-out data, z made of the noise eps: a bound on -log p(x) / n.
    """

    teaches_variance = False
    teaches_jumps = True
    teaches_steps = 1
    needs_end = False
    encodes = True  # asks the network for the z of data
    teacher: Teacher | None = None
    coupling: ClassVar[Coupling] = Independent()
    evaluations = 2

    def __init__(self, std: Positive = 0.5, learn_std: bool = True):
        super().__init__()
        self.log_std = nn.Parameter(torch.full((), log(std)), requires_grad=learn_std)
        self.watched: dict[str, Tensor] = {}

    def forward(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, generator: torch.Generator, step: int = 0
    ) -> Tensor:
        """(B,) of ``x`` (B, ...); z is drawn from ``generator``."""
        mean, log_variance = encode(denoiser, x, cond)
        error, divergence = self._terms(denoiser, x, cond, mean, log_variance, randn(mean.shape, generator).to(mean))
        size = x[0].numel()
        self.watched = {
            "kl": divergence.detach().mean(),
            "rmse": (error.detach().mean() / size).sqrt(),
            "std": self.log_std.detach().exp(),
        }
        return self._bound(error, divergence, size)

    def at_quantile(self, denoiser: Denoiser, x: Tensor, cond: Condition, u: Tensor, eps: Tensor) -> Tensor:
        mean, log_variance = encode(denoiser, x, cond)
        noise = eps.flatten(1)[:, : mean.shape[1]].to(mean)
        return self._bound(*self._terms(denoiser, x, cond, mean, log_variance, noise), x[0].numel())

    def _terms(
        self, denoiser: Denoiser, x: Tensor, cond: Condition, mean: Tensor, log_variance: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """|x - D(z)|² and the divergence, (B,) each, at z = mean + exp(log_variance / 2) ``eps``."""
        z = (mean + (log_variance / 2).exp() * eps).to(x)
        error = decode(denoiser, z, tuple(x.shape[1:]), cond) - x
        return error.square().flatten(1).sum(1), kl(mean, log_variance)

    def _bound(self, error: Tensor, divergence: Tensor, size: int) -> Tensor:
        likelihood = error / (2 * (2 * self.log_std).exp()) + size * (self.log_std + log(2 * pi) / 2)
        return (likelihood + divergence) / size
