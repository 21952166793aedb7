"""Guidance that asks for gradients through the denoiser."""

from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from oboro.condition import Condition
from oboro.guidance.guidance import DenoiserWrapper

Pullback = Callable[[Tensor], Tensor]


def linearized(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Pullback]:
    """f(x), and v ↦ vᵀ ∂f/∂x of the shape of ``x``, for v of the shape of f(x), with one evaluation of f in all.

    It works inside of ``torch.no_grad`` and whatever parameters f has, and leaves their gradients alone. Where ``x``
    itself is being differentiated, as by a guidance around another one, both results are, too (f then has to be twice
    differentiable); elsewhere they are detached.
    """
    nested = torch.is_grad_enabled() and x.requires_grad
    # A compiled network has no second derivative: there it is evaluated as it is written.
    stance = torch.compiler.set_stance("force_eager") if nested else nullcontext()
    with torch.enable_grad(), stance:
        x = x if nested else x.detach().requires_grad_()
        y = f(x)

    def pullback(v: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(y, x, v, retain_graph=True, create_graph=nested)
        return gradient

    return (y if nested else y.detach()), pullback


class GradientGuided(DenoiserWrapper):
    """A guided denoiser that sees the Jacobian J = ∂D/∂x_t of the one that it guides, by products Jᵀ v.

    A score that is added to that of x_t moves x̂0 by sigma_t² / alpha_t times it (``Classifier``). For a condition y on
    clean data that score is grad_{x_t} log p(y | x_t), of which DPS (arXiv:2209.14687) and PiGDM (Song et al. 2023)
    take log p(y | x̂0) of one kind or another, whose gradient is Jᵀ grad_{x̂0} log p(y | x̂0).
    """

    @abstractmethod
    def steer(self, conditional: Tensor, pullback: Pullback, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """D'(x_t, t, cond) from ``conditional`` = D(x_t, t, cond) and ``pullback``: v ↦ Jᵀ v, all (B, ...)."""

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        x0, pullback = linearized(lambda x: self.denoiser(x, t, cond), x_t)
        return self.steer(x0, pullback, x_t, t, cond)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        variances: list[Tensor] = []

        def evaluate(x: Tensor) -> Tensor:
            x0, v = self.denoiser.with_variance(x, t, cond)
            variances.append(v)
            return x0

        x0, pullback = linearized(evaluate, x_t)
        (v,) = variances
        return self.steer(x0, pullback, x_t, t, cond), v if x0.requires_grad else v.detach()
