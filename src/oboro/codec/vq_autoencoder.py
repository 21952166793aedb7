"""The autoencoder of latent diffusion whose latent is made of entries of a codebook."""

import torch
from torch import Tensor, nn

from oboro.base.ranges import Depth, Entries, Multiples, NonNegative, Width
from oboro.codec.learned import Learned, Reconstructed
from oboro.model.autoencoder import Decoder, Encoder


class VQAutoencoder(Learned):
    """x̂ = decoder(q(z)) with z = encoder(x) and q(z) the nearest of ``codes`` vectors at each place: VQGAN (Esser et
    al. 2021, arXiv:2012.09841, sec. 3.1), the VQ-regularised first stage of LDM.

    Latents are z before quantisation and ``decode`` quantises, so that a denoiser works on continuous numbers and its
    errors are rounded away (LDM, arXiv:2112.10752, sec. 3.1). The codec's term of the objective is the mean over the
    latent of (sg[z] - q)² + ``commitment`` (z - sg[q])², sg stops gradients (VQ-VAE, van den Oord et al. 2017,
    arXiv:1711.00937, eq. 3); the gradient of the decoder goes straight through q to z.
    """

    def __init__(
        self,
        in_channels: Width,
        channels: Width,
        codes: Entries,
        width: Width = 128,
        channel_mult: Multiples = (1, 2, 4, 4),
        blocks: Depth = 2,
        attention: bool = True,
        commitment: NonNegative = 0.25,
    ):
        super().__init__(in_channels, channels, 2 ** (len(channel_mult) - 1))
        shape = (width, channel_mult, blocks, attention)
        self.encoder = Encoder(in_channels, channels, *shape)
        self.to_latent = nn.Conv2d(channels, channels, 1)
        self.codebook = nn.Parameter(torch.empty(codes, channels).uniform_(-1 / codes, 1 / codes))
        self.from_latent = nn.Conv2d(channels, channels, 1)
        self.decoder = Decoder(channels, in_channels, *shape)
        self.commitment = commitment

    def latent(self, x: Tensor) -> Tensor:
        return self.to_latent(self.encoder(x))

    def image(self, latent: Tensor) -> Tensor:
        q = self.look_up(self.nearest(latent)).to(latent)
        if latent.requires_grad:  # as in training, the gradient goes straight through to the latent
            q = latent + (q - latent).detach()
        return self.decoder(self.from_latent(q))

    @property
    def last(self) -> nn.Parameter:
        return self.decoder.conv_out.weight

    @torch.no_grad()
    def nearest(self, latent: Tensor) -> Tensor:
        """(B, h, w), int64: the entry of the codebook with the least |z - e|² at each place."""
        z = latent.movedim(1, -1).flatten(0, -2).to(self.codebook)
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 would choose another of 8192 for every third
            distance = self.codebook.square().sum(1) - 2 * z @ self.codebook.T  # |z|² is the same for all entries
        return distance.argmin(1).view(len(latent), *latent.shape[2:])

    def look_up(self, indices: Tensor) -> Tensor:
        """Entries (B, channels, h, w) of ``indices`` (B, h, w)."""
        return self.codebook[indices].movedim(-1, 1)

    def reconstruct(self, x: Tensor, generator: torch.Generator) -> Reconstructed:
        z = self.latent(x)
        indices = self.nearest(z)
        q = self.look_up(indices)
        codebook, commitment = ((a - b).square().flatten(1).mean(1) for a, b in ((z.detach(), q), (z, q.detach())))
        image = self.decoder(self.from_latent(z + (q - z).detach()))
        numbers = {"codebook": codebook.mean(), "perplexity": self.perplexity(indices)}
        return Reconstructed(image, codebook + self.commitment * commitment, numbers)

    def perplexity(self, indices: Tensor) -> Tensor:
        """exp(entropy of how often entries are chosen): the number of entries, were they used equally often."""
        share = torch.bincount(indices.flatten(), minlength=len(self.codebook)).float() / indices.numel()
        return torch.special.entr(share).sum().exp()

    def observe(self, x: Tensor) -> Tensor:
        return self.nearest(self.latent(x)).flatten(1).float()

    def summary(self, rows: Tensor) -> dict[str, float]:
        """Of the codebook over all images: ``usage``, the share of its entries that occur, and ``perplexity``."""
        indices = rows.long()
        return {
            "usage": len(indices.unique()) / len(self.codebook),
            "perplexity": self.perplexity(indices).item(),
        }
