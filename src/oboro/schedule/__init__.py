"""The forward process: how an image dissolves into noise.

A schedule is the map t ↦ (alpha_t, sigma_t) of ``x_t = alpha_t x + sigma_t eps`` with t = 0 data and t = 1 noise.
Everything else here follows from it: the log signal-to-noise ratio ``log_snr(t) = log(alpha_t² / sigma_t²)``, its
inverse, and ``add_noise``. All maps are elementwise, keep the type of ``t`` and accept any shape.
"""

from oboro.schedule.closed_form import Cosine, Karras, Laplace, Linear, Sigmoid
from oboro.schedule.discrete import DDPM, Discrete, DiscreteCosine, ScaledLinear
from oboro.schedule.resolution import Interpolated, Shifted
from oboro.schedule.schedule import Schedule, VariancePreserving, expand_as
from oboro.schedule.sde import VE, VP, SubVP
from oboro.schedule.zero_terminal import ZeroTerminalSNR

__all__ = [
    "DDPM",
    "VE",
    "VP",
    "Cosine",
    "Discrete",
    "DiscreteCosine",
    "Interpolated",
    "Karras",
    "Laplace",
    "Linear",
    "ScaledLinear",
    "Schedule",
    "Shifted",
    "Sigmoid",
    "SubVP",
    "VariancePreserving",
    "ZeroTerminalSNR",
    "expand_as",
]
