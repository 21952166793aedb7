"""Fréchet distance of 2,048 features: moments of two sets of 10,000, and the distance of them."""

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_statistics_to_metric

from oboro.metrics import FeatureStatistics, frechet_distance
from rows.row import Contender, Row

N, D = 10_000, 2048
row = Row(f"moments of 2 × {N:,} × {D} features, or the distance of two such moments", 3)
row.against = {"oboro_distance": "torch_fidelity_distance"}


def features(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(N, D, generator=g) @ (torch.randn(D, D, generator=g) / D**0.5) + seed


def moments(x: torch.Tensor) -> dict:
    numbers = x.double().numpy()
    return {"mu": numbers.mean(0), "sigma": np.cov(numbers, rowvar=False)}


@row.contender
def numpy_moments() -> Contender:
    a, b = features(0), features(1)
    return lambda: [moments(a), moments(b)]


@row.contender
def oboro_moments() -> Contender:
    a, b = features(0), features(1)
    return lambda: [FeatureStatistics.from_features(a), FeatureStatistics.from_features(b)]


@row.contender
def torch_fidelity_distance() -> Contender:
    a, b = moments(features(0)), moments(features(1))
    return lambda: fid_statistics_to_metric(a, b, verbose=False)


@row.contender
def oboro_distance() -> Contender:
    a, b = (FeatureStatistics.from_features(features(seed)) for seed in (0, 1))
    return lambda: frechet_distance(a, b)
