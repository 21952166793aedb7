"""The autoencoder of latent diffusion whose latent is a Gaussian."""

import torch
from torch import Tensor, nn

from oboro.base.draws import randn
from oboro.base.ranges import Depth, Multiples, NonNegative, Width
from oboro.codec.learned import Learned, Reconstructed
from oboro.model.autoencoder import Decoder, Encoder

LOG_VARIANCE = (-30.0, 20.0)  # LDM's bounds


class Autoencoder(Learned):
    """q(z | x) = N(mean(x), exp(log_variance(x))) and x̂ = decoder(z): the KL-regularised first stage of LDM (Rombach
    et al. 2022, arXiv:2112.10752, sec. 3.1 and appendix G).

    Latents are the mean. Their sides are 1/f of the image's, f = 2^(len(channel_mult) - 1), and they have ``channels``
    channels. In training z is drawn, and its divergence from N(0, I) costs ``kl_weight`` KL / (C H W): KL in nats is
    the sum over all of the latent, and C H W numbers make up an image (C, H, W). With an error that is the mean over
    these numbers, this is LDM's objective, which sums both, divided by C H W. The layers are those of diffusers'
    ``AutoencoderKL``; ``groups`` are those of its normalisations, None follows ``group_norm``.
    """

    def __init__(
        self,
        in_channels: Width,
        channels: Width,
        width: Width = 128,
        channel_mult: Multiples = (1, 2, 4, 4),
        blocks: Depth = 2,
        attention: bool = True,
        kl_weight: NonNegative = 1e-6,
        groups: Width | None = None,
    ):
        super().__init__(in_channels, channels, 2 ** (len(channel_mult) - 1))
        shape = (width, channel_mult, blocks, attention, groups)
        self.encoder = Encoder(in_channels, 2 * channels, *shape)
        self.to_posterior = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.from_latent = nn.Conv2d(channels, channels, 1)
        self.decoder = Decoder(channels, in_channels, *shape)
        self.kl_weight = kl_weight

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), (B, channels, H / f, W / f) each; the log-variance is in [-30, 20]."""
        mean, log_variance = self.to_posterior(self.encoder(x)).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def latent(self, x: Tensor) -> Tensor:
        return self.posterior(x)[0]

    def image(self, latent: Tensor) -> Tensor:
        return self.decoder(self.from_latent(latent))

    @property
    def last(self) -> nn.Parameter:
        return self.decoder.conv_out.weight

    def reconstruct(self, x: Tensor, generator: torch.Generator) -> Reconstructed:
        mean, log_variance = self.posterior(x)
        eps = randn(mean.shape, generator).to(mean)
        divergence = kl(mean, log_variance)
        image = self.image(mean + (log_variance / 2).exp() * eps)
        return Reconstructed(image, self.kl_weight * divergence / x[0].numel(), {"kl": divergence.mean()})

    def observe(self, x: Tensor) -> Tensor:
        return kl(*self.posterior(x))[:, None]

    def summary(self, rows: Tensor) -> dict[str, float]:
        """``kl``: the mean over images of the divergence in nats."""
        return {"kl": rows.mean().item()}


def kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)) in nats, (B,), in float32 or better: the sum over all but the batch of
    (mean² + exp(log_variance) - 1 - log_variance) / 2 (Kingma & Welling 2014, arXiv:1312.6114, appendix B)."""
    precise = torch.promote_types(mean.dtype, torch.float32)
    mean, log_variance = mean.flatten(1).to(precise), log_variance.flatten(1).to(precise)
    return (mean**2 + log_variance.exp() - 1 - log_variance).sum(1) / 2
