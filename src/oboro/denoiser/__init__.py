"""Denoisers: (x_t, t, cond) ↦ x̂0. Learned ones wrap a network, exact ones know the distribution of the data."""

from oboro.denoiser.denoiser import Denoiser, Denoises
from oboro.denoiser.exact import GaussianDenoiser, GaussianFlowMap, MixtureDenoiser

__all__ = ["Denoiser", "Denoises", "GaussianDenoiser", "GaussianFlowMap", "MixtureDenoiser"]
