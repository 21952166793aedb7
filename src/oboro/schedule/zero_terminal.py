"""No signal at the end, for schedules that were published with some."""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from oboro.base.errors import UserError
from oboro.schedule.schedule import Schedule, in_float64


class ZeroTerminalSNR(Schedule):
    """The variance-preserving ``base`` with alpha shifted to end at 0 and scaled to keep its value at ``first``.

    alpha' = a (alpha - z) / (a - z) for t >= first, with a = alpha(first) and z = alpha(1) of the base, and alpha' =
    alpha before; sigma'² = 1 - alpha'². Lin et al. 2023 (arXiv:2305.08891, algorithm 1), whose first entry of a table
    of T steps is at first = 1 / T. With first = 0 the formula holds everywhere and 1 stays 1.
    A network that predicts eps cannot be used, as for ``Linear`` and ``Cosine``: choose v.

    Raises ``UserError`` if ``base`` does not preserve the variance, or unless 0 <= first < 1.
    """

    def __init__(self, base: Schedule, first: Annotated[float, Interval(ge=0, lt=1)] = 0.0):
        if not 0 <= first < 1:
            raise UserError(f"ZeroTerminalSNR got first = {first}; choose 0, or 1 / steps of a table.")
        times = torch.tensor([first, 1.0, 0.25, 0.5, 0.75], dtype=torch.float64, device="cpu")
        alpha, sigma = base(times)
        if bool(((alpha**2 + sigma**2 - 1).abs() > 1e-6).any()):
            raise UserError(
                f"ZeroTerminalSNR needs alpha² + sigma² = 1, which {type(base).__name__} does not keep; choose a base "
                "such as ScaledLinear, DDPM or VP."
            )
        self.base = base
        self.first = first
        a, z = alpha[:2].tolist()
        self._scale = a / (a - z)
        self._floor = z
        # What 1 - alpha' lacks to scale (1 - alpha); zero for first = 0. Taken from sigma: 1 - alpha would cancel.
        self._missing = z / (a - z) * float(sigma[0]) ** 2 / (1 + a)
        self._first_log_snr = float(base.log_snr(times)[0])

    def _rescaled(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.base(t)
        scaled = torch.where(t < 1, self._scale * (alpha - self._floor).clamp(min=0), 0.0)
        rest = self._scale * sigma**2 / (1 + alpha) - self._missing  # 1 - alpha', without cancellation near data
        before = t < self.first
        root = torch.sqrt((rest * (1 + scaled)).clamp(min=0))
        return torch.where(before, alpha, scaled), torch.where(before, sigma, root)

    def alpha(self, t: Tensor) -> Tensor:
        return in_float64(lambda t: self._rescaled(t)[0], t)

    def sigma(self, t: Tensor) -> Tensor:
        return in_float64(lambda t: self._rescaled(t)[1], t)

    def log_snr(self, t: Tensor) -> Tensor:
        def ratio(t: Tensor) -> Tensor:
            alpha, sigma = self._rescaled(t)
            return 2 * (torch.log(alpha) - torch.log(sigma))

        return in_float64(ratio, t)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        def inverse(log_snr: Tensor) -> Tensor:
            scaled = torch.sqrt(torch.sigmoid(log_snr))
            rest = (torch.sigmoid(-log_snr) / (1 + scaled) + self._missing) / self._scale  # 1 - alpha
            own = 2 * torch.log(scaled / self._scale + self._floor) - torch.log(rest * (2 - rest))
            return self.base.t_from_log_snr(torch.where(log_snr > self._first_log_snr, log_snr, own))

        return in_float64(inverse, log_snr)
