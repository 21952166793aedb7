"""A scale of guidance for each condition."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import Len
from torch import Tensor

from oboro.condition import Condition, Signal
from oboro.denoiser import Denoises
from oboro.guidance.guidance import Guidance, Guided
from oboro.sampler import Node


class PerCondition(Guidance):
    """D' = D_0 + sum_k scale_k (D_k - D_{k-1}), with D_k the denoiser under the first k conditions of ``scales``.

    Brooks et al. 2022 (arXiv:2211.09800, eq. 3) with scales = {image: 1.5, text: 7.5}: scale_k raises the density of
    condition k given those before it. Conditions of the model that ``scales`` does not name stay in every D_k, and
    ``Condition.away`` takes the place of those that are left out. One condition is classifier-free guidance, and with
    all scales 1, D' is the denoiser under all conditions. Written as D' = D_K + sum_k (scale_{k+1} - scale_k) (D_K -
    D_k) with scale_0 = 1, so that D_k is evaluated only where two neighbours differ: K + 1 evaluations at most.

    Needs a model trained with its conditions dropped, each on its own. Raises ``UserError`` before training or
    sampling where ``scales`` names what the model does not read.
    """

    def __init__(self, scales: Annotated[Mapping[str, float], Len(1, 64)]):
        self.scales = dict(scales)

    @property
    def drops(self) -> bool:
        return any(scale != 1 for scale in self.scales.values())

    def leaves_out(self, given: Collection[str]) -> set[str]:
        return {name for left, _ in steps(self.scales) for name in left}

    @property
    def reads(self) -> Mapping[str, type[Signal]]:
        return dict.fromkeys(self.scales, Signal)

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return PerConditionDenoiser(denoiser, steps(self.scales)) if self.drops else denoiser


def steps(scales: Mapping[str, float]) -> list[tuple[list[str], float]]:
    """For each k with scale_{k+1} != scale_k: the names of the conditions after the first k, and the difference."""
    names, ladder = list(scales), [1.0, *scales.values()]
    return [(names[k:], b - a) for k, (a, b) in enumerate(pairwise(ladder)) if a != b]


class PerConditionDenoiser(Guided):
    """The denoiser that ``PerCondition`` makes."""

    def __init__(self, denoiser: Denoises, steps: Sequence[tuple[Sequence[str], float]]):
        super().__init__(denoiser)
        self.steps = steps

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        guided = conditional
        for left, difference in self.steps:
            guided = guided + difference * (conditional - self.denoiser(x_t, t, cond.without(*left)))
        return guided
