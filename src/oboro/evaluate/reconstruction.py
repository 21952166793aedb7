"""What an autoencoder does to many images, on all ranks: reconstructions, and the statistics of latents."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.base import distributed
from oboro.base.finite import check_finite
from oboro.codec import Learned
from oboro.extractor.extractor import Samples
from oboro.modality import from_uint8, to_uint8

CHUNK = 100  # images that are encoded at once; batch shapes change results by 1e-7


@torch.no_grad()
def reconstructions(
    codec: Learned, images: Samples, rows: Sequence[int], device: torch.device, chunk: int = CHUNK
) -> Tensor:
    """decode(encode(x)) of uint8 ``images`` at ``rows``: uint8 (len(rows), C, H, W) on the CPU of every rank."""

    def rebuilt(ids: list[int]) -> Tensor:
        x = from_uint8(images[torch.tensor([rows[i] for i in ids])].to(device))
        return to_uint8(codec.decode(codec.encode(x)))

    return distributed.map_samples(len(rows), min(chunk, len(rows)), rebuilt, device)


@torch.no_grad()
def latent_statistics(
    codec: Learned, images: Samples, rows: Sequence[int], device: torch.device, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,), float64, of each channel of ``codec.latent`` over the images at ``rows``.

    Over images and places: mean = E[m] and std² = E[v] + Var[m], with m and v the mean and the variance within one
    image. Ranks exchange m and v, so all of them get the same bits, whatever their number.
    """

    def moments_of(ids: list[int]) -> Tensor:
        x = from_uint8(images[torch.tensor([rows[i] for i in ids])].to(device))
        latent = codec.latent(x).float()
        check_finite(latent, "latents", "the codec has diverged; train it with a lower optimizer.lr")
        variance, mean = torch.var_mean(latent, (2, 3), correction=0)
        return torch.cat([mean, variance], 1)

    moments = distributed.map_samples(len(rows), min(chunk, len(rows)), moments_of, device).double()
    mean, variance = moments.chunk(2, 1)
    return mean.mean(0), (variance.mean(0) + mean.var(0, correction=0)).sqrt()
