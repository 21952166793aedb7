"""Schedules that follow the resolution: averaging pixels removes noise but no signal, so more of them need more noise.

An image of R² pixels, averaged down to r² pixels, has R/r times less noise: its log-SNR rises by 2 log(R / r).
Hoogeboom et al. 2023 (arXiv:2301.11093, sec. 3.1).
"""

from math import exp, log, pi

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Positive
from oboro.schedule.closed_form import Cosine
from oboro.schedule.schedule import Schedule, VariancePreserving, in_float64


class Shifted(Schedule):
    """The schedule ``base``, later: log_snr(t) = log_snr_base(t) + 2 log(reference / resolution).

    (alpha, sigma) are those of ``base`` at the time of that log-SNR, so a variance-preserving base stays one and
    straight lines stay straight. ``base`` is what would be used at ``reference`` pixels a side. Hoogeboom et al. 2023
    (arXiv:2301.11093, eq. 4-5). On ``Linear`` it is the timestep shift t' = m t / (1 + (m - 1) t) with
    m = resolution / reference of Esser et al. 2024 (arXiv:2403.03206, eq. 23).

    Raises ``UserError`` unless both resolutions are positive.
    """

    def __init__(self, base: Schedule, resolution: Positive, reference: Positive = 64.0):
        if not (resolution > 0 and reference > 0):
            raise UserError(f"Shifted got resolution {resolution} and reference {reference}; choose both above 0.")
        self.base = base
        self.resolution = resolution
        self.reference = reference
        self._shift = 2 * log(reference / resolution)

    def _warped(self, t: Tensor) -> Tensor:
        """The time at which ``base`` is as noisy; float64, as base has its end where 1 - t no longer tells much."""
        return self.base.t_from_log_snr(self.base.log_snr(t) + self._shift)

    def alpha(self, t: Tensor) -> Tensor:
        return in_float64(lambda t: self.base.alpha(self._warped(t)), t)

    def sigma(self, t: Tensor) -> Tensor:
        return in_float64(lambda t: self.base.sigma(self._warped(t)), t)

    def log_snr(self, t: Tensor) -> Tensor:
        return self.base.log_snr(t) + self._shift

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.base.t_from_log_snr(log_snr - self._shift)


class Interpolated(VariancePreserving):
    """A shift that changes on the way: log_snr = (1 - t) c_data(t) + t c_noise(t).

    c_r(t) = -2 log tan(pi t / 2) + 2 log(r / resolution) is the shifted cosine; ``data`` and ``noise`` are the
    reference resolutions r at t = 0 and at t = 1. Hoogeboom et al. 2023 (arXiv:2301.11093, eq. 6) keep the noise of
    a 256 pixel image near data, for details, and of 32 pixels near noise, for the layout of large images.
    k-diffusion, the code of Crowson et al. 2024 (arXiv:2401.11605), runs the other way: its noise_d_low is ``data``,
    its noise_d_high is ``noise``.

    Raises ``UserError`` where log-SNR would not fall all the way, noise >= data exp(pi), and for sides that are not
    positive.
    """

    def __init__(self, resolution: Positive, data: Positive = 256.0, noise: Positive = 32.0):
        if not (resolution > 0 and data > 0 and noise > 0):
            raise UserError(f"Interpolated got the sides {resolution}, {data} and {noise}; choose them above 0.")
        if noise >= data * exp(pi):
            raise UserError(
                f"Interpolated between {data} and {noise} pixels would rise in log-SNR on the way; choose noise below "
                f"{data * exp(pi):.0f}."
            )
        self.resolution, self.data, self.noise = resolution, data, noise
        self._cosine = Cosine()
        self._first = 2 * log(data / resolution)
        self._change = 2 * log(noise / data)

    def log_snr(self, t: Tensor) -> Tensor:
        return self._cosine.log_snr(t) + (self._first + t * self._change)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return in_float64(lambda log_snr: self._cosine.t_from_log_snr(self._cosine_part(log_snr)), log_snr)

    def _cosine_part(self, log_snr: Tensor) -> Tensor:
        """The root c of c + change t(c) = log_snr - first, with t(c) the inverse of the cosine's log-SNR.

        As t is in [0, 1] it lies between ``right`` and ``right - change``, and the left side rises with a slope of at
        least 1 - change / (2 pi). Twelve halvings bring it within |change| / 8192, where Newton's method squares the
        error at each step; their number is fixed so that no step waits for a value on the device.
        """
        right = (log_snr - self._first).clamp(-1e4, 1e4)  # beyond, t(c) is 0 or 1 anyway, and infinite - infinite NaN
        low, high = right - max(self._change, 0.0), right - min(self._change, 0.0)
        for _ in range(12):
            middle = (low + high) / 2
            above = middle + self._change * self._cosine.t_from_log_snr(middle) > right
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        c = (low + high) / 2
        for _ in range(6):
            error = c + self._change * self._cosine.t_from_log_snr(c) - right
            c = c - error / (1 - self._change / (2 * pi * torch.cosh(c / 2)))
        return c
