"""Mean and covariance of a set of features, in the form that distances need."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """The first two moments of n feature vectors, float64, on the CPU.

    The covariance S (divisor n - 1) is kept as a root A with S = A Aᵀ. With n <= d samples the root is the centred
    features themselves, which is exact where an eigendecomposition of the singular S is not; otherwise it is
    V sqrt(w) of S = V diag(w) Vᵀ, without the directions whose variance is below rounding.

    Attributes:
        n: number of samples.
        mean: (d,).
        root: A, shape (d, k), k <= d.
    """

    n: int
    mean: Tensor
    root: Tensor

    @classmethod
    def from_features(cls, features: Tensor) -> "FeatureStatistics":
        """Statistics of ``features`` (n, d), n >= 2. NaN or infinite features raise ``ValueError``."""
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"statistics need features (n, d) with n >= 2, got shape {tuple(features.shape)}")
        features = features.detach().cpu()
        bad = (~features.isfinite()).any(1).sum().item()
        if bad:
            raise ValueError(f"{bad} of {len(features)} feature vectors hold NaN or infinity: no statistics exist")
        n, d = features.shape
        mean = features.mean(0, dtype=torch.float64)
        if n <= d:
            return cls(n, mean, (features.double() - mean).T / math.sqrt(n - 1))
        covariance = torch.zeros(d, d, dtype=torch.float64)
        for rows in features.split(4096):
            centred = rows.double() - mean
            covariance.addmm_(centred.T, centred)
        return cls(n, mean, _square_root(covariance / (n - 1)))

    @classmethod
    def from_moments(cls, n: int, mean: Tensor, covariance: Tensor) -> "FeatureStatistics":
        """Statistics published as ``mean`` (d,) and ``covariance`` (d, d) of ``n`` samples."""
        mean, covariance = mean.detach().cpu().double(), covariance.detach().cpu().double()
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"mean {tuple(mean.shape)} and covariance {tuple(covariance.shape)} do not fit")
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise ValueError("the mean or the covariance holds NaN or infinity")
        return cls(n, mean, _square_root(covariance))

    @property
    def covariance(self) -> Tensor:
        """S = A Aᵀ, shape (d, d), divisor n - 1."""
        return self.root @ self.root.T


def _square_root(covariance: Tensor) -> Tensor:
    """A (d, k) with A Aᵀ = ``covariance`` (d, d); eigenvalues below d eps max(w) are rounding and are dropped."""
    values, vectors = torch.linalg.eigh(covariance)
    smallest = len(values) * torch.finfo(torch.float64).eps * values.abs().max()
    if values.min() < -1e4 * smallest:
        raise ValueError(f"not a covariance matrix: its smallest eigenvalue is {values.min():.3g}")
    kept = values > smallest
    return vectors[:, kept] * values[kept].sqrt()
