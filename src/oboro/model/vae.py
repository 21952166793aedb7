"""A variational autoencoder whose latent is one vector."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oboro.base.ranges import Classes, Multiples, Width
from oboro.condition import Signal, Signals
from oboro.model.dcgan import DCGAN, Size, Strided
from oboro.model.layers import LabelEmbedding
from oboro.model.signals import label_index

LOG_VARIANCE = (-30.0, 20.0)  # as of ``oboro.codec.Autoencoder``


class VAE(nn.Module):
    """F(x, c_noise, signals) ↦ (B, in_channels, *size), the decoder, a ``DCGAN`` of z, the first ``latent`` numbers of
    ``x``; and beside it the encoder, q(z | x) = N(mean, exp(log_variance)): Kingma & Welling 2014 (arXiv:1312.6114).

    Labels are read by both. The codecs of ``oboro.codec`` are for latents that are pictures.
    """

    min_size = 1
    dims = 2

    def __init__(
        self,
        in_channels: Width,
        size: Size,
        latent: Width = 32,
        width: Width = 64,
        channel_mult: Multiples = (1, 2, 4),
        num_classes: Classes = 0,
    ):
        super().__init__()
        self.decoder = DCGAN(in_channels, size, latent, width, channel_mult, num_classes)
        self.encoder = Strided(in_channels, size, width, channel_mult)
        self.label = LabelEmbedding(num_classes, latent) if num_classes else None
        self.to_posterior = nn.Linear(self.encoder.features + (latent if num_classes else 0), 2 * latent)

    @property
    def latent(self) -> int:
        return self.decoder.latent

    @property
    def reads(self) -> Mapping[str, type[Signal]]:
        return self.decoder.reads

    def encode(self, x: Tensor, signals: Signals) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), (B, latent) each, of clean ``x`` (B, ...)."""
        h = self.encoder(x)
        if self.label is not None:
            h = torch.cat([h, self.label(label_index(signals, h[:, 0])).to(h)], 1)
        mean, log_variance = self.to_posterior(h).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def reconstruct(self, x: Tensor, signals: Signals) -> Tensor:
        """What the decoder makes of the mean of q(z | x), (B, in_channels, *size)."""
        mean, _ = self.encode(x, signals)
        return self.decoder(mean, mean.new_zeros(len(x)), signals)

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        return self.decoder(x, c_noise, signals)
