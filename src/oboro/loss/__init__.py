"""Losses: (denoiser, x, cond, generator) to one number per sample. They own p(t), the weight and the target."""

from oboro.loss.denoising import (
    SNR,
    Denoising,
    EDMWeight,
    LogitNormal,
    LogNormalSigma,
    MinSNR,
    TimeDistribution,
    Uniform,
    UniformT,
    Weight,
)

__all__ = [
    "SNR",
    "Denoising",
    "EDMWeight",
    "LogNormalSigma",
    "LogitNormal",
    "MinSNR",
    "TimeDistribution",
    "Uniform",
    "UniformT",
    "Weight",
]
