"""Which noise meets which sample of a batch: the joint distribution of (x, eps), with both marginals given."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from oboro.condition import Condition


class Coupling(ABC):
    """(x, eps, cond) to a permutation of the rows of eps."""

    # Whether eps is independent of x. Else E[eps | x_t] = -sigma times the score of x_t does not hold.
    independent: bool

    @abstractmethod
    def __call__(self, x: Tensor, eps: Tensor, cond: Condition) -> Tensor:
        """eps (B, ...) for ``x`` (B, ...)."""


class Independent(Coupling):
    """Row i of eps goes with row i of x."""

    independent = True

    def __call__(self, x: Tensor, eps: Tensor, cond: Condition) -> Tensor:
        return eps


class OptimalTransport(Coupling):
    """The permutation of eps with the least sum |x_i - eps_i|² among the samples of equal condition in the
    micro-batch of this rank: of all that training draws, this alone depends on how many share a batch.

    Tong et al. 2023 (arXiv:2302.00482), Pooladian et al. 2023 (arXiv:2304.14772). Paths from noise to data become
    straighter, the more so the more samples share a condition. An assignment over the whole batch would give every
    condition the noise that lies near its own data, while a sampler starts each condition from all of N(0, I)
    (Cheng & Schwing 2025, arXiv:2503.10636); within a condition p(eps | cond) stays normal.

    x and eps are no longer independent, so the mean of eps given x_t is no score, and samplers of an SDE go wrong; the
    flow that ODE samplers and the likelihood follow needs no more than the mean of x given x_t. The cost of the
    assignment grows as the cube of the samples of a condition.
    """

    independent = False

    def __call__(self, x: Tensor, eps: Tensor, cond: Condition) -> Tensor:
        from scipy.optimize import linear_sum_assignment  # half a second of imports, for this coupling alone

        coupled = eps.clone()
        for rows in equal_conditions(cond, len(x), x.device):
            if len(rows) > 1:
                cost = torch.cdist(x[rows].flatten(1), eps[rows].flatten(1)).square()
                _, columns = linear_sum_assignment(cost.cpu().numpy())
                coupled[rows] = eps[rows[torch.from_numpy(columns).to(rows)]]
        return coupled


def equal_conditions(cond: Condition, batch: int, device: torch.device) -> list[Tensor]:
    """The row numbers of each set of samples whose conditions are all equal; one set if there are no conditions."""
    group = torch.zeros(batch, dtype=torch.int64, device=device)
    tensors = [tensor for signal in cond.signals.values() for tensor in signal.tensors().values()]
    for value in tensors:
        _, code = torch.unique(value.reshape(batch, -1), dim=0, return_inverse=True)
        _, group = torch.unique(group * batch + code.to(device), return_inverse=True)
    return [torch.nonzero(group == k).flatten() for k in range(int(group.max()) + 1)]
