"""Fidelity and diversity apart: how much of each set of features lies near the other one."""

import torch
from torch import Tensor

from oboro.base.distributed import share
from oboro.base.ranges import Count
from oboro.metrics.bank import Bank
from oboro.metrics.metric import Metric, Value
from oboro.metrics.nearest import blocks, centre_of, checked, radii, rows_of
from oboro.metrics.reference import Reference


def precision_recall(
    generated: Tensor, reference: Tensor, k: int = 3, reference_radii: Tensor | None = None
) -> tuple[float, float]:
    """Improved precision and recall of ``generated`` (n, d) against ``reference`` (m, d) (Kynkäänniemi et al. 2019).

    Precision is the share of generated samples inside at least one ball around a reference sample, recall the share of
    reference samples inside at least one ball around a generated sample; a ball is closed and reaches to the ``k``-th
    nearest other sample of its own set (arXiv:1904.06991). Both depend on n and m, and neither is 1 for equal
    distributions.

    ``reference_radii`` (m,) are ``radii(reference, k)``, for a caller that keeps them; None computes them.
    Raises ``ValueError`` unless n > ``k`` and m > ``k``.
    """
    generated, reference, reference_radii = _prepared(generated, reference, k, reference_radii)
    generated_radii = radii(generated, k)
    given = (generated, reference, centre_of(reference), generated_radii, reference_radii)
    precise, recalled = zip(*share(_within_balls, rows_of(generated), *given), strict=True)
    return torch.cat(precise).double().mean().item(), torch.stack(recalled).any(0).double().mean().item()


def _within_balls(
    rows: slice, x: Tensor, y: Tensor, centre: Tensor, x_radii: Tensor, y_radii: Tensor
) -> tuple[Tensor, Tensor]:
    """Which of some ``rows`` of x lie in a closed ball around a row of y, and which rows of y in one around these."""
    precise = torch.zeros(rows.stop - rows.start, dtype=torch.bool, device=x.device)
    recalled = torch.zeros(len(y), dtype=torch.bool, device=x.device)
    for block in blocks(rows, x, y, centre):
        precise |= (block.compare(y_radii[block.cols]) <= 0).any(1)
        recalled[block.cols] = (block.compare(x_radii[block.rows, None]) <= 0).any(0)
    return precise, recalled


def density_coverage(
    generated: Tensor, reference: Tensor, k: int = 5, reference_radii: Tensor | None = None
) -> tuple[float, float]:
    """Density and coverage of ``generated`` (n, d) against ``reference`` (m, d) (Naeem et al. 2020).

    Around each reference sample is an open ball that reaches to the ``k``-th nearest other one. Density is the number
    of balls that a generated sample lies in, on average, over ``k``; coverage is the share of balls that hold a
    generated sample (arXiv:2002.09797). For equal distributions without ties E density = 1 and
    E coverage = 1 - (m-1)...(m-k) / (m+n-1)...(m+n-k), about 1 - 2^-k for n = m.

    ``reference_radii`` (m,) are ``radii(reference, k)``, for a caller that keeps them; None computes them.
    Raises ``ValueError`` unless m > ``k``.
    """
    generated, reference, reference_radii = _prepared(generated, reference, k, reference_radii)
    given = (generated, reference, centre_of(reference), reference_radii)
    inside, covered = zip(*share(_held, rows_of(generated), *given), strict=True)
    return sum(inside).item() / (k * len(generated)), torch.stack(covered).any(0).double().mean().item()


def _held(rows: slice, x: Tensor, y: Tensor, centre: Tensor, y_radii: Tensor) -> tuple[Tensor, Tensor]:
    """How many open balls around rows of y some ``rows`` of x lie in, all together, and which balls hold one."""
    inside = torch.zeros((), dtype=torch.int64, device=x.device)
    covered = torch.zeros(len(y), dtype=torch.bool, device=x.device)
    for block in blocks(rows, x, y, centre):
        held = block.compare(y_radii[block.cols]) < 0
        inside += held.sum()
        covered[block.cols] = held.any(0)
    return inside, covered


def _prepared(
    generated: Tensor, reference: Tensor, k: int, reference_radii: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    generated, reference = checked(generated, reference)
    if reference_radii is None:
        reference_radii = radii(reference, k)
    if reference_radii.shape != (len(reference),):
        raise ValueError(f"{tuple(reference_radii.shape)} radii do not belong to {len(reference)} reference samples")
    return generated, reference, reference_radii


class PrecisionRecall(Metric):
    """Improved precision (share of samples within the real manifold) and recall (the reverse); final."""

    def __init__(self, k: Count = 3):
        self.k = k

    @property
    def least(self) -> int:
        return self.k + 1

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        real = reference.bank["features"]
        precision, recall = precision_recall(generated["features"], real, self.k, reference_radii(reference, self.k))
        return {"precision": Value(precision, better=1), "recall": Value(recall, better=1)}


class DensityCoverage(Metric):
    """Density (how many real balls hold a sample) and coverage (share of real balls that hold one); final."""

    def __init__(self, k: Count = 5):
        self.k = k

    @property
    def least(self) -> int:
        return self.k + 1

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        real = reference.bank["features"]
        density, coverage = density_coverage(generated["features"], real, self.k, reference_radii(reference, self.k))
        return {"density": Value(density, better=1), "coverage": Value(coverage, better=1)}


def reference_radii(reference: Reference, k: int) -> Tensor:
    """Distances of real images to their k-th nearest other one, computed once."""

    def compute() -> dict:
        return {"radii": radii(reference.bank["features"], k).numpy()}

    return torch.from_numpy(reference.derived(f"radii to the neighbour {k}, 1", compute)["radii"])
