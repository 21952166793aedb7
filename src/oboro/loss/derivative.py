"""Derivatives of a network's answer along a direction of its inputs: the tangents of flow maps."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from oboro.base.draws import replayed

Derivative = Literal["exact", "finite"]
STEP = 2e-3  # of differences in single precision: their error falls as its square and that of rounding as its inverse


def along(
    f: Callable[[Tensor, Tensor], Tensor],
    point: tuple[Tensor, Tensor],
    direction: tuple[Tensor, Tensor],
    how: Derivative,
) -> Tensor:
    """d/dh f(point + h direction) at h = 0, (B, ...), through which no gradient flows.

    ``exact`` is a Jacobian-vector product by forward differentiation: attention is computed without a fused kernel,
    none of which has a derivative of that kind, and a compiled network as it was before. ``finite`` is the central
    difference (f(+h) - f(-h)) / 2h with h = ``STEP``: two evaluations by any kernel.

    Both see the dropout masks of an evaluation at this point, and compute in the precision of their arguments, without
    autocast: a difference would have no digits left in 16 bits. The weights are constants of f, so that the gradients
    of what else is computed are those that ranks share.
    """
    device = point[0].device
    with ExitStack() as inside:
        for context in (torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False)):
            inside.enter_context(context)
        (x, t), (dx, dt) = ([part.clone() for part in pair] for pair in (point, direction))  # not of inference
        if how == "exact":
            inside.enter_context(torch.compiler.set_stance("force_eager"))
            inside.enter_context(sdpa_kernel(SDPBackend.MATH))
            inside.enter_context(replayed(device))
            return jvp(f, (x, t), (dx, dt))[1]
        with replayed(device):
            above = f(x + STEP * dx, t + STEP * dt)
        with replayed(device):
            below = f(x - STEP * dx, t - STEP * dt)
        return (above - below) / (2 * STEP)


def root_mean_square(x: Tensor, rows: Tensor | None = None) -> Tensor:
    """sqrt(mean(x²)) over the samples where ``rows`` (B,), bool, is True; 0 for none."""
    size = x.detach().square().flatten(1).mean(1)
    if rows is None:
        return size.mean().sqrt()
    return (torch.where(rows, size, 0).sum() / rows.sum().clamp(min=1)).sqrt()
