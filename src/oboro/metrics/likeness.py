"""How much a sample is like the true picture, and like what was measured of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.metrics.paired import SAMPLE, Given, Paired, Regional, mean_where
from oboro.modality import Image, Modality

RANGE = 2.0  # of pixels in [-1, 1]
LEAST = 1e-10  # mean squared error, so that equal pictures have a finite PSNR, 106 dB
REACH = 5  # of the windows of SSIM, in pixels


def psnr(error: Tensor) -> Tensor:
    """10 log10(R² / MSE) in dB of mean squared errors (B,) of pixels in [-1, 1], R = 2; at most 106."""
    return 10 * (RANGE**2 / error.clamp(min=LEAST)).log10()


class PSNR(Regional):
    """The mean over samples of the peak signal-to-noise ratio to the true picture in dB, ``psnr``; at most 106."""

    short = "psnr"

    def score(self, x: Tensor, truth: Tensor, where: Tensor) -> Tensor:
        return psnr(mean_where((x - truth).square(), where))


class SSIM(Regional):
    """The mean over samples, pixels and channels of the structural similarity to the true picture (Wang et al. 2004,
    eq. 13), with Gaussian windows of 1.5 pixels; a picture is mirrored beyond its border. In a region the mean over
    windows around its pixels: a window sees 5 pixels to each side.
    """

    short = "ssim"

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if isinstance(modality, Image) and min(modality.shape[1:]) <= REACH:
            raise UserError(
                f"ssim looks at windows, and {modality} is too small for one; leave it out of metrics=[...]."
            )

    def score(self, x: Tensor, truth: Tensor, where: Tensor) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure  # seconds of imports

        _, similarity = structural_similarity_index_measure(
            x.double(), truth.double(), data_range=RANGE, reduction="none", return_full_image=True
        )
        return mean_where(similarity, where)


class KnownKept(Paired):
    """The mean over samples of the share of known pixels that have their value to the last bit, as they are stored."""

    needs = frozenset({"truth", "hole", "exact"})

    @property
    def names(self) -> Sequence[str]:
        return ["known_kept"]

    def rows(self, x: Tensor, given: Given) -> Tensor:
        assert given.truth is not None and given.known is not None
        return mean_where((x == given.truth).all(1, keepdim=True), given.known)[:, None]


class Consistency(Paired):
    """The mean over samples of the PSNR in dB between what the condition shows, y, and the same of the sample, A x̂,
    ``consistency``: 10 log10(4 / mean (A x̂ - y)²), the mean over what is measured; at most 106.

    Samples of 8 bits are off by rounding, which alone costs some 59 dB without averaging.
    """

    needs = frozenset({"observed"})

    @property
    def names(self) -> Sequence[str]:
        return ["consistency"]

    def rows(self, x: Tensor, given: Given) -> Tensor:
        squares, counts = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
        for observation in given.observations:
            if observation.see is None or observation.entry != SAMPLE:
                continue
            error = (observation.see(x) - observation.y).double().square()
            weight = torch.ones_like(error) if observation.weight is None else observation.weight.to(error)
            weight = weight.expand_as(error)
            squares, counts = squares + (error * weight).flatten(1).sum(1), counts + weight.flatten(1).sum(1)
        return psnr(squares / counts)[:, None]
