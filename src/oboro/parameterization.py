"""What the network predicts, and how its output becomes the clean image.

Every known choice is a linear target ``F = p x + q eps`` with p, q functions of (alpha, sigma). One formula inverts
them all: ``D = c_skip x_t + c_out F`` with ``c_skip = q / (q alpha - p sigma)`` and
``c_out = -sigma / (q alpha - p sigma)``. Hence a parameterization is the pair (p, q).

The p, q below do not change when (alpha, sigma) are scaled together, up to the factor that cancels in ``c_out``, and
the network sees ``c_in x_t`` and ``c_noise``, both functions of log-SNR alone. So sampling may use another schedule
than training did.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import NonNegative, Positive


class Coefficients(NamedTuple):
    """D(x_t) = c_skip x_t + c_out F(c_in x_t, c_noise)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def network_input(alpha: Tensor, sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """(c_in, c_noise) of a network that sees c_in x_t and c_noise, both of the shape of ``alpha``.

    ``sigma_data`` is the standard deviation of the data in ``c_in = 1 / sqrt(alpha² sigma_data² + sigma²)``, giving
    the network an input of unit variance. With sigma_data = 1 and a variance-preserving schedule c_in = 1, as in
    DDPM. ``c_noise = log(sigma / alpha) / 4`` (EDM, arXiv:2206.00364, table 1), with |log_snr| held below 20 so that
    it stays finite where a schedule ends without signal.
    """
    data = alpha if sigma_data == 1 else alpha * sigma_data
    log_ratio = torch.log(sigma) - torch.log(alpha)
    return torch.rsqrt(data**2 + sigma**2), log_ratio.clamp(-10, 10) / 4


class Parameterization(ABC):
    """(alpha, sigma) ↦ (p, q) of the target F = p x + q eps.

    What the network sees is ``network_input`` with ``sigma_data``, whatever the target.
    """

    sigma_data: float
    # Whether D(x_t) = x_t / alpha at a noise level above zero: fit for an x̂0 that is the end of the flow, not a mean.
    boundary: bool = False

    def __init__(self, sigma_data: Positive = 1.0):
        self.sigma_data = sigma_data

    @abstractmethod
    def target_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q), of the shape of ``alpha``."""

    def target(self, x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """F = p x + q eps."""
        p, q = self.target_weights(alpha, sigma)
        return p * x + q * eps

    def skip_and_out(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out), of the shape of ``alpha``."""
        p, q = self.target_weights(alpha, sigma)
        determinant = q * alpha - p * sigma
        return q / determinant, -sigma / determinant

    def require_defined(self, alpha: Tensor, sigma: Tensor, place: str) -> None:
        """Raises ``UserError`` where a coefficient is not finite: eps without signal, at zero terminal SNR."""
        if not all(bool(c.isfinite().all()) for c in self(alpha, sigma)):
            raise UserError(
                f"{type(self).__name__} is undefined at {place}, where no signal is left; choose parameterization=v, "
                "velocity or edm, or schedule=vp."
            )

    def __call__(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return Coefficients(*self.skip_and_out(alpha, sigma), *network_input(alpha, sigma, self.sigma_data))


class Eps(Parameterization):
    """The noise: F = eps. DDPM (Ho et al. 2020, arXiv:2006.11239, eq. 14). Undefined where alpha = 0."""

    def target_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(alpha), torch.ones_like(alpha)


class X0(Parameterization):
    """The clean image itself: F = x. Undefined where sigma = 0."""

    def target_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.zeros_like(alpha)


class V(Parameterization):
    """F = (alpha eps - sigma x) / sqrt(alpha² + sigma²).

    Salimans & Ho 2022 (arXiv:2202.00512, app. D). The root is 1 on the variance-preserving schedules of that paper; it
    makes the target the same on every other one.
    """

    def target_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r = torch.sqrt(alpha**2 + sigma**2)
        return -sigma / r, alpha / r


class Velocity(Parameterization):
    """F = eps - x, the velocity of the straight path from data to noise.

    Rectified flow (arXiv:2209.03003, eq. 1) and flow matching (arXiv:2210.02747), with time running towards noise.
    """

    def target_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(alpha), torch.ones_like(alpha)

    def skip_and_out(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """1 / (alpha + sigma) and -sigma / (alpha + sigma), to the last bit those of the constant weights."""
        total = alpha + sigma
        return total.reciprocal(), -sigma / total


class EDM(Parameterization):
    """F = (sigma x / sigma_data - alpha sigma_data eps) / sqrt(alpha² sigma_data² + sigma²), of unit variance.

    The linear form of the preconditioning of Karras et al. 2022 (arXiv:2206.00364, table 1, column "Ours"):
    with r² = sigma² + alpha² sigma_data² it has c_skip = alpha sigma_data² / r² and c_out = sigma sigma_data / r.
    """

    def __init__(self, sigma_data: Positive = 0.5):
        super().__init__(sigma_data)

    def target_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r = torch.sqrt((alpha * self.sigma_data) ** 2 + sigma**2)
        return sigma / (self.sigma_data * r), -alpha * self.sigma_data / r


class Consistency(Parameterization):
    """EDM's preconditioning moved by ``sigma_min``, so that D(x_t) = x_t / alpha at sigma / alpha = sigma_min.

    c_skip = alpha sigma_data² / d² and c_out = sigma_data (sigma - sigma_min alpha) / r, with
    d² = (sigma - sigma_min alpha)² + alpha² sigma_data² and r² = sigma² + alpha² sigma_data²; with alpha = 1 these are
    those of Song et al. 2023 (arXiv:2303.01469, app. C). p = (1 - c_skip alpha) / c_out and q = -c_skip sigma / c_out.

    For models whose x̂0 is the end of the flow that begins at x_t. As a posterior mean it is wrong at the boundary, and
    the weight 1 / c_out² is infinite there; sigma_min = 0 is ``EDM``.
    """

    boundary = True

    def __init__(self, sigma_data: Positive = 0.5, sigma_min: NonNegative = 0.002):
        super().__init__(sigma_data)
        self.sigma_min = sigma_min

    def skip_and_out(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        above, data = sigma - self.sigma_min * alpha, alpha * self.sigma_data
        return data * self.sigma_data / (above**2 + data**2), self.sigma_data * above * torch.rsqrt(sigma**2 + data**2)

    def target_weights(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        c_skip, c_out = self.skip_and_out(alpha, sigma)
        return (1 - c_skip * alpha) / c_out, -c_skip * sigma / c_out
