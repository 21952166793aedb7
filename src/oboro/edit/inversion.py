"""Editing by the noise that the flow leads back to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import PositiveShare
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.edit.edit import Edit, Model, Pictures, walked
from oboro.guidance import Guidance
from oboro.guidance.guidance import DenoiserWrapper
from oboro.sampler import Node
from oboro.schedule import expand_as


class Inverting(Edit):
    """Walks up the flow of the source, to time ``strength``, and down another one: the sampler must draw no noise."""

    def __init__(self, strength: PositiveShare = 1.0, source_scale: float = 1.0):
        super().__init__(source_scale)
        self.strength = strength

    def inverted(self, model: Model, pictures: Pictures) -> Tensor:
        """x_t at ``strength``, of the flow under the source."""
        return walked(model, pictures, pictures.source, self.source_guidance, x=pictures.x, start=0, stop=self.strength)

    def check(self, model: Model, drawn: bool) -> None:
        model.nodes(0.0, self.strength)

    def evaluations(self, model: Model) -> int:
        return model.evaluations(0.0, self.strength) + model.evaluations(self.strength)


class Inversion(Inverting):
    """The flow upwards under the source, from the picture to x_t at t = ``strength``, then down under the target.

    DDIM inversion for ``sampler=ddim`` (Song et al. 2021, arXiv:2010.02502, sec. 4.3; Dhariwal & Nichol 2021,
    arXiv:2105.05233, app. F), and the same with any sampler that draws no noise. Under equal conditions and scales it
    is a round trip, whose error falls with the sampler's order in its steps. The way up is at guidance scale
    ``source_scale``: above 1 the flow upwards is not the inverse of a flow that guidance made unstable (Mokady et al.
    2023, arXiv:2211.09794, sec. 3.2), so the picture comes back less exactly. A lower ``strength`` keeps more of it.
    """

    def __call__(self, model: Model, pictures: Pictures) -> Tensor:
        x_t = self.inverted(model, pictures)
        return walked(model, pictures, pictures.target, model.guidance, x_t=x_t, start=self.strength)


class Interpolation(Inverting):
    """``frames`` pictures from one to another: the flow down from x_t(w) = slerp(x_t, x_t', w), w = 0 … 1.

    x_t and x_t' are the inversions of the two pictures, of the first under the source and of the second under the
    target. slerp is along the sphere, where noise lies (Song et al. 2021, arXiv:2010.02502, sec. 5.3). Between two
    conditions the flow is that of x̂0 = (1 - w) D(x_t, source) + w D(x_t, target), so that both ends are round trips.
    """

    joins = True

    def __init__(
        self,
        frames: Annotated[int, Interval(ge=2, le=1000)] = 8,
        strength: PositiveShare = 1.0,
        source_scale: float = 1.0,
    ):
        super().__init__(strength, source_scale)
        self.frames = frames

    def __call__(self, model: Model, pictures: Pictures) -> Tensor:
        if pictures.other is None:
            raise UserError("an interpolation leads from one picture to another; give both.")
        ends = [
            self.inverted(model, pictures),
            self.inverted(model, replace(pictures, x=pictures.other, source=pictures.target)),
        ]
        share = torch.linspace(0, 1, self.frames).repeat(len(pictures.x)).to(pictures.x)
        first, last = (end.repeat_interleave(self.frames, 0) for end in ends)
        rows = torch.arange(len(pictures.x)).repeat_interleave(self.frames)
        conds = [cond.rows(rows) for cond in (pictures.source, pictures.target)]
        if pictures.source is pictures.target:
            conds = conds[:1]
        between = Between(model.guidance, [cond.to(pictures.x.device) for cond in conds], share)
        x_t = slerp(first, last, share)
        return walked(model, pictures, conds[0], between, x_t=x_t, start=self.strength, times=self.frames)

    def evaluations(self, model: Model) -> int:
        return 2 * model.evaluations(0.0, self.strength) + model.evaluations(self.strength)


class Between:
    """x̂0 = (1 - w) D' under the first condition + w D' under the second, of the guidance that is given; w (B,)."""

    def __init__(self, guidance: Guidance, conds: Sequence[Condition], share: Tensor):
        self.guidance = guidance
        self.conds = conds
        self.share = share

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return BetweenDenoiser(self.guidance(denoiser, grid), self.conds, self.share)


class BetweenDenoiser(DenoiserWrapper):
    """The denoiser that ``Between`` makes. It has conditions of its own and takes none."""

    def __init__(self, denoiser: Denoises, conds: Sequence[Condition], share: Tensor):
        super().__init__(denoiser)
        self.conds = conds
        self.share = share

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self._mixed([self.denoiser(x_t, t, one) for one in self.conds])

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        both = [self.denoiser.with_variance(x_t, t, one) for one in self.conds]
        return self._mixed([x0 for x0, _ in both]), self._mixed([v for _, v in both])

    def _mixed(self, values: Sequence[Tensor]) -> Tensor:
        return torch.lerp(values[0], values[-1], expand_as(self.share.to(values[0]), values[0]))


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """sin((1 - w) θ) / sin θ a + sin(w θ) / sin θ b of samples (B, ...), w = ``share`` (B,) and θ the angle between
    them (Shoemake 1985); a straight line where they point the same way, or opposite ways."""
    cosine = F.cosine_similarity(a.flatten(1).double(), b.flatten(1).double(), dim=1)
    angle = torch.arccos(cosine.clamp(-1, 1))
    w = share.double()
    straight = angle.sin() < 1e-4
    sine = torch.where(straight, 1.0, angle.sin())
    weights = (torch.where(straight, u, torch.sin(u * angle) / sine) for u in (1 - w, w))
    first, last = (expand_as(u.to(a), a) for u in weights)
    return first * a + last * b
