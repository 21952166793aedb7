"""Denoisers: (x_t, t, cond) ↦ x̂0. Learned ones wrap a network, exact ones know the distribution of the data."""

from oboro.denoiser.denoiser import Denoiser, Denoises, FlowMap, combined
from oboro.denoiser.exact import GaussianDenoiser, GaussianFlowMap, MixtureDenoiser
from oboro.denoiser.times import same_time, shared

__all__ = [
    "Denoiser",
    "Denoises",
    "FlowMap",
    "GaussianDenoiser",
    "GaussianFlowMap",
    "MixtureDenoiser",
    "combined",
    "same_time",
    "shared",
]
