"""What normal samples look like to a detector: how its maps become scores, and scores decisions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf, isinf, log
from typing import Any, Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from oboro.detection.threshold import threshold

Pool = Literal["mean", "max", "top"]
EPS = 1e-12  # the standard deviation of what is the same for all normal samples
PLACE_SHARE = 0.999  # of the places of normal samples that a drawn border leaves outside


@dataclass(frozen=True)
class Pooling:
    """How a map (B, K, ...) becomes numbers (B, K): ``smoothing``, the standard deviation in places of the Gaussian
    that it is smoothed by; then the ``mean``, the ``max``, or the mean of the ``top_share`` largest places. Numbers
    (B, K) stay.

    And how K measurements become one (``joined``), by ``temperature`` τ: infinity is their mean, near 0 their largest.
    """

    score: Pool = "mean"
    top_share: float = 0.01
    smoothing: float = 0.0
    temperature: float = inf

    def smoothed(self, maps: Tensor) -> Tensor:
        if maps.ndim == 2 or not self.smoothing:
            return maps
        stds = (0, 0, *(self.smoothing,) * (maps.ndim - 2))
        return torch.from_numpy(gaussian_filter(maps.numpy(), stds, mode="reflect"))

    def numbers(self, maps: Tensor) -> Tensor:
        if maps.ndim == 2:
            return maps
        places = maps.flatten(2)
        if self.score == "max":
            return places.amax(2)
        if self.score == "mean":
            return places.mean(2)
        return places.topk(max(1, ceil(self.top_share * places.shape[2])), 2).values.mean(2)

    def joined(self, z: Tensor) -> Tensor:
        """τ log mean_k exp(z_k / τ) of standardised measurements (B, K, ...): what is far from normal in one of them is
        not made up for by others in which it is nearer than most."""
        if isinf(self.temperature):
            return z.mean(1)
        return self.temperature * (torch.logsumexp(z / self.temperature, 1) - log(z.shape[1]))


@dataclass(frozen=True)
class Calibration:
    """What is known of n validation normals, none of which a model has learned from, and none of a test.

    Measurement k of a sample, a number, is brought to mean 0 and standard deviation 1 of these, and its score is what
    the pooling makes of all; of temperature infinity their mean (Graham et al. 2023, arXiv:2211.07740, sec. 3.2). The
    same is done with places, for the map.

    Attributes:
        pooling: from maps to numbers.
        share: of validation normals that are accepted.
        count: n.
        mean, std: of each measurement.
        place_mean, place_std: of the places of each measurement, over all places of all normals; () of numbers.
        threshold: the score above which a sample is rejected: the largest of ``share`` of these normals.
        place_threshold: the value of the map that 99.9 % of the places of these normals do not exceed; None of numbers.
    """

    pooling: Pooling
    share: float
    count: int
    mean: Sequence[float]
    std: Sequence[float]
    place_mean: Sequence[float]
    place_std: Sequence[float]
    threshold: float
    place_threshold: float | None

    @classmethod
    def of(cls, maps: Tensor, pooling: Pooling, share: float) -> "Calibration":
        """From the smoothed maps (n, K, ...), or the numbers (n, K), of validation normals."""
        std, mean = torch.std_mean(pooling.numbers(maps).double(), 0)
        of_places: tuple[list[float], list[float]] = ([], [])
        if maps.ndim > 2:
            place_std, place_mean = torch.std_mean(maps.movedim(1, 0).flatten(1).double(), 1)
            of_places = place_mean.tolist(), place_std.clamp(min=EPS).tolist()
        known = (pooling, share, len(maps), mean.tolist(), std.clamp(min=EPS).tolist(), *of_places)
        first = cls(*known, 0.0, None)
        found = first.map(maps)
        place = None if found is None else float(np.quantile(found.numpy(), PLACE_SHARE))
        return cls(*known, threshold(first.scores(maps).numpy(), share), place)

    def scores(self, maps: Tensor) -> Tensor:
        """(B,) float64 of smoothed maps (B, K, ...), or numbers (B, K)."""
        numbers = self.pooling.numbers(maps).double()
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
        return self.pooling.joined((numbers - mean) / std)

    def map(self, maps: Tensor) -> Tensor | None:
        """(B, ...) float32 of smoothed maps (B, K, ...); None of numbers."""
        if maps.ndim == 2:
            return None
        shape = (1, -1, *(1,) * (maps.ndim - 2))
        mean, std = (torch.tensor(values).view(shape) for values in (self.place_mean, self.place_std))
        return self.pooling.joined((maps - mean) / std).float()

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restored(cls, plain: dict[str, Any]) -> "Calibration":
        """The inverse of ``plain``."""
        return cls(**{**plain, "pooling": Pooling(**plain["pooling"])})
