"""Mean and variance of what a sampler makes of Gaussian data, without a draw."""

import torch

from oboro.condition import Condition
from oboro.denoiser.exact import GaussianDenoiser


class Impulses:
    """Noise that is 0 but for draw k in row k + 2; rows 0 and 1 stay without noise."""

    def __init__(self):
        self.spans: list[tuple[float, float] | None] = []

    def _impulse(self, like):
        out = torch.zeros_like(like)
        row = len(self.spans) + 1
        if row < len(like):
            out[row] = 1
        return out

    def __call__(self, like):
        self.spans.append(None)
        return self._impulse(like)

    def between(self, like, a, b):
        self.spans.append((a, b))
        return self._impulse(like)


def correlations(spans) -> torch.Tensor:
    """Of all draws: increments of one Brownian motion overlap, fresh noise is independent."""
    low, high = torch.tensor([span or (0.0, 0.0) for span in spans], dtype=torch.float64).view(-1, 2).T
    overlap = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
    length = (high - low).sqrt()
    c = (overlap.clamp(min=0) / (length[:, None] * length)).nan_to_num(0.0)
    return c.fill_diagonal_(1.0)


def moments(sampler, schedule, mean: float, std: float) -> tuple[float, float]:
    """Of x̂0, exactly: with an affine denoiser the sample is affine in x_T and in every draw."""
    denoiser = GaussianDenoiser(mean, std, schedule)

    def run(rows: int):
        noise = Impulses()
        x_T = torch.zeros(rows, 1, dtype=torch.float64)
        x_T[1] = 1.0
        return sampler(denoiser, x_T, Condition(), noise)[:, 0], noise.spans

    _, spans = run(2)
    out, spans = run(2 + len(spans))
    gain = out[1:] - out[0]
    c = torch.block_diag(torch.ones(1, dtype=torch.float64), correlations(spans))
    c[0, 0] = float(schedule.sigma(torch.ones((), dtype=torch.float64))) ** 2
    return float(out[0]), float(gain @ c @ gain)
