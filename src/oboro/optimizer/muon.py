"""Muon: steps of matrices with all singular values alike."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

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

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After ``load_state_dict`` and of a copy. AdamW asks each state for its number of steps; those of matrices
        have none."""
        states = state["state"]
        matrices = {weight: kept for weight, kept in states.items() if "momentum_buffer" in kept}
        others = {weight: kept for weight, kept in states.items() if weight not in matrices}
        super().__setstate__({**state, "state": defaultdict(dict, others)})
        self.state.update(matrices)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        kept = []
        for group in self.param_groups:
            matrices = [weight for weight in group["params"] if weight.grad is not None and is_matrix(weight)]
            if matrices:
                self._update(matrices, group)
            kept += [(weight, weight.grad) for weight in matrices]
            for weight in matrices:
                weight.grad = None  # so that AdamW passes over it
        super().step()
        for weight, gradient in kept:
            weight.grad = gradient
        return loss

    def _update(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Matrices of one shape are made orthogonal together: small ones take longer to call for than to multiply."""
        momentum, gradients = group["momentum"], [cast(Tensor, weight.grad) for weight in weights]
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        averages = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, averages, momentum)
        if group["weight_decay"]:
            torch._foreach_mul_(list[Tensor](weights), 1 - group["lr"] * group["weight_decay"])
        alike = defaultdict(list)
        for weight, direction in zip(weights, directions, strict=True):
            alike[direction.flatten(1).shape].append((weight, direction))
        for shape, pairs in alike.items():
            updates = orthogonal(torch.stack([direction.flatten(1) for _, direction in pairs])).unbind()
            steps = [update.view_as(weight) for update, (weight, _) in zip(updates, pairs, strict=True)]
            torch._foreach_add_([weight for weight, _ in pairs], steps, alpha=-0.2 * max(shape) ** 0.5 * group["lr"])


def is_matrix(weight: Tensor) -> bool:
    """Whether it has ``SMALLEST`` rows and columns, the axes behind the first taken together."""
    return weight.ndim > 1 and min(weight.shape[0], weight[0].numel()) >= SMALLEST


def orthogonal(matrices: Tensor) -> Tensor:
    """Of (..., m, n) the same singular vectors with singular values from 0.7 to 1.2, in the same type.

    X ← (a + b G + c G²) X with G = X Xᵀ, five times. G is carried along, G ← A G A with A = a + b G + c G², and the
    product of the A multiplies X once: all but two products are of the shorter side. Computed in float32, where values
    that are smaller than the largest by 1e-3 or more are off by some percent.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).float().reshape(-1, *sorted(matrices.shape[-2:]))
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    gram, product = x @ x.mT, None
    for k in range(ITERATIONS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if k + 1 < ITERATIONS:
            gram = polynomial @ gram @ polynomial
    x = product @ x
    return (x.mT if tall else x).reshape(matrices.shape).to(matrices.dtype)
