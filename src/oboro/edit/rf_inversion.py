"""Inversion and sampling that are pulled to where they shall end."""

from collections.abc import Callable, Sequence

from torch import Tensor

from oboro.base.ranges import PositiveShare, Share
from oboro.base.seeding import SampleNoise
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.edit.edit import Model, Pictures, walked
from oboro.edit.inversion import Inverting
from oboro.guidance import Guidance
from oboro.guidance.guidance import Guided
from oboro.sampler import Node
from oboro.schedule import expand_as


class RFInversion(Inverting):
    """Inversion towards a drawn noise, and the way down pulled to the picture (Rout et al. 2024, arXiv:2410.10792).

    Up: eps̃ ← (1 - ``to_noise``) eps̃ + ``to_noise`` eps, with one eps ~ N(0, I) a picture. Down:
    x̂0 ← (1 - ``to_picture``) x̂0 + ``to_picture`` x while t > ``pull_until``. On the linear schedule these are
    v ← v + gamma ((eps - x_t) / (1 - t) - v) and v ← v + eta ((x_t - x) / t - v) of the paper, with its gamma = 0.5 and
    eta = 0.9; written with eps̃ and x̂0 they hold on every schedule. ``to_noise`` = ``to_picture`` = 0 is ``Inversion``,
    and ``to_picture`` = 1 down to t = 0 gives the picture back.
    """

    def __init__(
        self,
        to_noise: Share = 0.5,
        to_picture: Share = 0.9,
        pull_until: Share = 0.5,
        strength: PositiveShare = 1.0,
        source_scale: float = 1.0,
    ):
        super().__init__(strength, source_scale)
        self.to_noise = to_noise
        self.to_picture = to_picture
        self.pull_until = pull_until

    def __call__(self, model: Model, pictures: Pictures) -> Tensor:
        eps = SampleNoise(pictures.seed, pictures.ids)(pictures.x)
        up = Pulled(self.source_guidance, self.to_noise, lambda x_t, alpha, sigma: (x_t - sigma * eps) / alpha)
        x_t = walked(model, pictures, pictures.source, up, x=pictures.x, start=0, stop=self.strength)
        down = Pulled(model.guidance, self.to_picture, lambda x_t, alpha, sigma: pictures.x, self.pull_until)
        return walked(model, pictures, pictures.target, down, x_t=x_t, start=self.strength)


class Pulled:
    """(1 - ``share``) of the x̂0 of a guidance and ``share`` of ``to``(x_t, alpha_t, sigma_t), while t > ``until``."""

    def __init__(
        self,
        guidance: Guidance,
        share: float,
        to: Callable[[Tensor, Tensor, Tensor], Tensor],
        until: float = 0.0,
    ):
        self.guidance = guidance
        self.share = share
        self.to = to
        self.until = until

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        return PulledDenoiser(self.guidance(denoiser, grid), self)


class PulledDenoiser(Guided):
    """The denoiser that ``Pulled`` makes."""

    def __init__(self, denoiser: Denoises, pull: Pulled):
        super().__init__(denoiser)
        self.pull = pull

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        alpha, sigma = self.schedule(expand_as(t, x_t))
        share = expand_as((t > self.pull.until).to(x_t) * self.pull.share, x_t)
        return conditional + share * (self.pull.to(x_t, alpha, sigma) - conditional)
