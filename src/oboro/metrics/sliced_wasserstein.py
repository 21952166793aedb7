"""The sliced Wasserstein distance of two sets of features, on the scale of the Monge Inception Distance (MIND)."""

import torch
from torch import Tensor

from oboro.base.ranges import Entries
from oboro.base.seeding import generator
from oboro.metrics.bank import Bank
from oboro.metrics.metric import Metric, Value
from oboro.metrics.nearest import checked
from oboro.metrics.reference import Reference

CHUNK = 64  # directions at a time: bounds the memory to CHUNK (n + m) numbers


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 1000, seed: int = 0) -> float:
    """3 d E_u W2²(u·x, u·y) over random unit vectors u: MIND (Berthet et al. 2026, arXiv:2605.06797).

    ``x`` (n, d) and ``y`` (m, d) are projected on ``projections`` directions; W2² on a line is the integral over p of
    the squared difference of the two quantile functions, exact for the empirical measures of all n and m samples.
    (torch-fidelity drops samples of the larger set; with n = m its definition is this one.) Float64.

    A shift by v costs 3 |v|². The directions depend on ``seed`` and d alone, so every model is seen from the same ones;
    another seed moves a pure shift by about sqrt(2 / ``projections``) of its size. The value is biased upwards by the
    finite samples: E > 0 also for equal distributions, and numbers of different n do not compare.

    Raises ``ValueError`` where ``projections`` < 1.
    """
    x, y = checked(x, y)
    if projections < 1:
        raise ValueError(f"the mean over {projections} directions does not exist: projections must be 1 or more")
    d = x.shape[1]
    from_x, from_y, widths = _coupling(len(x), len(y))
    total = 0.0
    for u in directions(d, projections, seed).split(CHUNK):
        a, b = _projected(x, u), _projected(y, u)
        total += ((a[:, from_x] - b[:, from_y]).square_() @ widths).sum().item()
    return 3 * d * total / projections


def directions(d: int, projections: int, seed: int) -> Tensor:
    """Independent uniform unit vectors (projections, d), float64."""
    u = torch.randn(projections, d, generator=generator(seed, "sliced wasserstein"), dtype=torch.float64)
    return u / u.norm(dim=1, keepdim=True)


def _projected(x: Tensor, u: Tensor) -> Tensor:
    """Order statistics (len(u), n) of ``x`` (n, d) on each direction."""
    return torch.cat([u @ rows.double().T for rows in x.split(4096)], 1).sort(1).values


def _coupling(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The optimal plan on a line between n and m equal masses: which order statistics meet, and the mass they move.

    The quantile functions jump at i/n and at j/m. Between two jumps both are constant; counted in units of 1/(nm) the
    jumps are whole numbers, so nothing is lost to rounding.
    """
    jumps = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique()
    start = jumps[:-1]
    return start // m, start // n, jumps.diff().double() / (n * m)


class SlicedWasserstein(Metric):
    """The mean squared 1-Wasserstein-2 distance over random directions: MIND on Inception's features; final."""

    def __init__(self, projections: Entries = 1000):
        self.projections = projections

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        value = sliced_wasserstein(generated["features"], reference.bank["features"], self.projections)
        return {"sw": Value(value, better=-1)}
