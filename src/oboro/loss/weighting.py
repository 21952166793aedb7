"""w(t) of the loss w(t) |D - x|². A weight that a paper puts on the error of eps is that weight times the SNR here."""

from abc import ABC, abstractmethod
from math import log, pi, sqrt

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.ranges import NonNegative, Positive, Width
from oboro.base.seeding import generator
from oboro.loss.time import Level


class Weight(nn.Module, ABC):
    """w(t) on the squared error of x̂0, of the shape (B,) of a batch of noise levels."""

    # Whether training divides by what it has learned of the losses at each noise level.
    adapts: bool = False

    @abstractmethod
    def forward(self, level: Level) -> Tensor:
        """w (B,), finite and not negative."""

    def objective(self, level: Level, loss: Tensor) -> tuple[Tensor, Tensor]:
        """What training minimises in place of the weighted ``loss`` (B,), and the part that trains the denoiser."""
        return loss, loss


class Uniform(Weight):
    """w = 1 / c_out²: plain mean squared error on the network's own target. L_simple of DDPM when that is eps."""

    def forward(self, level: Level) -> Tensor:
        return level.coefficients.c_out**-2


class SNR(Weight):
    """w = alpha² / sigma²: mean squared error on eps, whatever the network predicts."""

    def forward(self, level: Level) -> Tensor:
        return torch.exp(level.log_snr)


class MinSNR(Weight):
    """w = min(alpha² / sigma², gamma): Hang et al. 2023 (arXiv:2303.09556, eq. 8)."""

    def __init__(self, gamma: Positive = 5.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, level: Level) -> Tensor:
        return torch.exp(level.log_snr.clamp(max=log(self.gamma)))


class SoftMinSNR(Weight):
    """w = SNR gamma / (SNR + gamma), a smooth minimum of SNR and gamma (Crowson et al. 2024, arXiv:2401.11605).

    With gamma = 1 / sigma_data² it is 1 / (sigma̅² + sigma_data²), sigma̅ = sigma / alpha.
    """

    def __init__(self, gamma: Positive = 4.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, level: Level) -> Tensor:
        return self.gamma * torch.sigmoid(level.log_snr - log(self.gamma))


class P2(Weight):
    """w = SNR / (k + SNR)^gamma: Choi et al. 2022 (arXiv:2204.00227), who put 1 / (k + SNR)^gamma on eps.

    gamma = 0 is ``SNR``. With gamma = 1, w stays below 1, and nearly without noise the eps error counts as 1 / SNR.
    """

    def __init__(self, k: Positive = 1.0, gamma: NonNegative = 1.0):
        super().__init__()
        self.k = k
        self.gamma = gamma

    def forward(self, level: Level) -> Tensor:
        log_snr = level.log_snr
        return torch.exp(log_snr - self.gamma * torch.logaddexp(log_snr, log_snr.new_tensor(log(self.k))))


class EDM(Weight):
    """w = (sigma̅² + sigma_data²) / (sigma̅ sigma_data)² with sigma̅ = sigma / alpha (arXiv:2206.00364, table 1)."""

    def __init__(self, sigma_data: Positive = 0.5):
        super().__init__()
        self.sigma_data = sigma_data

    def forward(self, level: Level) -> Tensor:
        return torch.exp(level.log_snr) + self.sigma_data**-2


class TrigFlow(Weight):
    """w = (sigma̅² + sigma_data²) / (sigma̅³ sigma_data²) with sigma̅ = sigma / alpha: that of ``EDM`` over sigma̅.

    On the F of TrigFlow it is the prior weight 1 / sigma̅ of Lu & Song 2024 (arXiv:2410.11081, sec. 4.2).
    """

    def __init__(self, sigma_data: Positive = 0.5):
        super().__init__()
        self.sigma_data = sigma_data

    def forward(self, level: Level) -> Tensor:
        return torch.exp(level.log_snr / 2) * (torch.exp(level.log_snr) + self.sigma_data**-2)


class ELBO(Weight):
    """w = SNR / (2 p(log_snr)): the expected loss is the diffusion part of the bound on -log p(x), in nats a dimension.

    1/2 of the integral of |eps - eps̃|² over log-SNR, whatever the schedule and p(t) are: Kingma et al. 2021
    (arXiv:2107.00630, eq. 17-18). The integral ends where the schedule and T_MIN do.
    """

    def forward(self, level: Level) -> Tensor:
        return torch.exp(level.log_snr) * level.inverse_density / 2


class Sigmoid(Weight):
    """w = sigmoid(bias - log_snr) times that of ``ELBO``, which has infinitely many low noise levels.

    Kingma & Gao 2023 (arXiv:2303.00848), Hoogeboom et al. 2024 (arXiv:2410.19324). The expected loss
    does not depend on p(t), which only decides its variance. Images of higher resolution want a lower ``bias``.
    """

    def __init__(self, bias: float = 0.0):
        super().__init__()
        self.bias = bias

    def forward(self, level: Level) -> Tensor:
        # sigmoid(b - l) e^l = e^b sigmoid(l - b), without a product of huge and tiny
        bounded = torch.exp(level.log_snr.new_tensor(self.bias)) * torch.sigmoid(level.log_snr - self.bias)
        return bounded * level.inverse_density / 2


class LearnedLogVariance(Weight):
    """The weight of ``base``, and in training the loss L becomes L / exp(u) + u with a learned u(log_snr).

    Karras et al. 2024 (arXiv:2312.02696, eq. 14-15, after Kendall et al. 2018, arXiv:1705.07115). The optimum
    of u is log E[L | log_snr], so that every noise level comes to weigh the same. u = head · phi / sqrt(features), with
    fixed random Fourier features phi = sqrt(2) cos(2 pi (f c + b)) of c = log_snr / 8 and head = 0 at first: the root
    holds the gradient of u near 1, where the clipping of the joint gradient would slow the denoiser otherwise. L, and
    with it the loss in validation, is that of ``base``, without u. Raises ``UserError`` for a ``base`` that adapts.
    """

    adapts = True
    frequencies: Tensor
    phases: Tensor

    def __init__(self, base: Weight, features: Width = 128):
        super().__init__()
        if base.adapts:
            raise UserError(
                f"LearnedLogVariance of {type(base).__name__} would divide by the loss of a noise level twice; "
                "choose a fixed weight as loss.weighting.base."
            )
        self.base = base
        self.head = nn.Parameter(torch.zeros(features))
        g = generator(0, "log variance features")
        self.register_buffer("frequencies", torch.randn(features, generator=g, device="cpu"))
        self.register_buffer("phases", torch.rand(features, generator=g, device="cpu"))

    def forward(self, level: Level) -> Tensor:
        return self.base(level)

    def log_variance(self, level: Level) -> Tensor:
        """u (B,)."""
        c = level.log_snr.clamp(-20, 20).to(self.phases) / 8
        phi = sqrt(2) * torch.cos(2 * pi * (c[:, None] * self.frequencies + self.phases))
        return (phi * self.head).sum(1) / sqrt(len(self.head))  # a matrix product would be rounded by autocast

    def objective(self, level: Level, loss: Tensor) -> tuple[Tensor, Tensor]:
        u = self.log_variance(level).to(loss)
        scaled = loss / u.exp()
        return scaled + u, scaled
