"""Muon: steps of matrices with all singular values alike."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.ranges import BelowOne, CountOrNone, NonNegative
from oboro.base.shards import any_shard
from oboro.optimizer.adam import AdamW
from oboro.optimizer.decay import Decay
from oboro.optimizer.optimizer import Betas

SMALLEST = 16  # rows and columns of what counts as a matrix; first, last and label layers have fewer
QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration: singular values in (0, 1] come near 1 in 5 steps
ITERATIONS = 5


class Muon(AdamW):
    """W ← (1 - lr weight_decay) W - 0.2 lr sqrt(max(m, n)) orthogonal(N) for matrices, ``AdamW`` for all else.

    N = (1 - momentum) G + momentum M, with the average M ← momentum M + (1 - momentum) G of gradients, is flattened to
    (m, n), for convolutions m output channels, and ``orthogonal`` leaves its singular vectors and brings its singular
    values near 1: Jordan et al. 2024 (kellerjordan.github.io/posts/muon). With the factor 0.2 sqrt(max(m, n)) of Liu et
    al. 2025 (arXiv:2502.16982, eq. 4) an update is as large as one of Adam, so ``lr`` and ``weight_decay`` serve both.

    Matrices are the weights whose m and n are 16 or more: not biases, norms, or layers from and to few channels.
    Raises ``UserError`` for weights in shards, of which no rank has a whole matrix.
    """

    def __init__(
        self,
        lr: NonNegative,
        warmup_steps: CountOrNone,
        decay: Decay,
        momentum: BelowOne = 0.95,
        betas: Betas = (0.9, 0.99),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0.0,
    ):
        super().__init__(lr, warmup_steps, decay, betas, eps, weight_decay)
        self.momentum = momentum

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        if any_shard(parameters):
            raise UserError(
                "optimizer=muon needs whole matrices and fsdp2 has shards of them; choose optimizer=adamw, or "
                "trainer.strategy=ddp."
            )
        settings = {"lr": self.lr, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return MuonAdamW(parameters, self.momentum, settings)


class MuonAdamW(torch.optim.AdamW):
    """The torch optimizer of ``Muon``: one group, so that states are in the order of the weights."""

    def __init__(self, parameters: Iterable[nn.Parameter], momentum: float, settings: dict[str, Any]):
        super().__init__(parameters, **settings)
        for group in self.param_groups:
            group["momentum"] = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        kept = []
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and is_matrix(weight):
                    self._update(weight, group)
                    kept.append((weight, weight.grad))
                    weight.grad = None  # so that AdamW passes over it
        super().step()
        for weight, gradient in kept:
            weight.grad = gradient
        return loss

    def _update(self, weight: nn.Parameter, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        state, momentum = self.state[weight], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
        direction = torch.lerp(weight.grad, average, momentum).flatten(1)
        size = 0.2 * max(direction.shape) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(orthogonal(direction).view_as(weight), alpha=-group["lr"] * size)


def is_matrix(weight: Tensor) -> bool:
    """Whether it has ``SMALLEST`` rows and columns, the axes behind the first taken together."""
    return weight.ndim > 1 and min(weight.shape[0], weight[0].numel()) >= SMALLEST


def orthogonal(matrix: Tensor) -> Tensor:
    """The same singular vectors with singular values from 0.7 to 1.2: X ← a X + (b X Xᵀ + c (X Xᵀ)²) X, five times."""
    a, b, c = QUINTIC
    wide = matrix.float() if len(matrix) <= matrix.shape[1] else matrix.float().T
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + torch.addmm(square, square, square, beta=b, alpha=c) @ x
    return (x if len(matrix) <= matrix.shape[1] else x.T).to(matrix.dtype)
