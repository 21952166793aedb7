"""Samples from a denoiser, where sample ``i`` depends on (seed, i) alone."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from oboro.base.seeding import SampleNoise
from oboro.codec import Identity
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.guidance import Guidance, Guided
from oboro.sampler import Sampler

Watch = Callable[[Tensor, Tensor], None]


class Watched(Guided):
    """The same denoiser; ``watch`` is told each x̂0 (B, ...) and its t (B,)."""

    def __init__(self, denoiser: Denoises, watch: Watch):
        super().__init__(denoiser)
        self.watch = watch

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        self.watch(conditional, t)
        return conditional


@torch.no_grad()
def generate(
    denoiser: Denoises,
    guidance: Guidance,
    sampler: Sampler,
    codec: Identity,
    *,
    ids: Sequence[int],
    seed: int,
    cond: Condition,
    latent_shape: tuple[int, ...],
    device: torch.device,
    watch: Watch | None = None,
) -> Tensor:
    """Samples (len(ids), C, ...) in the range of the model, float32. ``cond`` belongs to ``ids``.

    Nothing is cut off: what is stored of a sample is for ``Modality.to_stored`` to say.

    x_T and every later draw come from per-sample CPU generators, so they are the same on every type of device.
    ``watch`` is called after each evaluation of the guided denoiser, ``sampler.evaluations(schedule)`` times if that is
    a fixed number, with x̂0, a latent, and t: for progress bars and previews.
    """
    noise = SampleNoise(seed, ids)
    x_T = denoiser.schedule.prior(noise(torch.empty(len(ids), *latent_shape, device=device)))
    cond = cond.to(device)
    guided = guidance(denoiser, sampler.nodes(denoiser.schedule))
    if watch is not None:
        guided = Watched(guided, watch)
    return codec.decode(sampler(guided, x_T, cond, noise)).float()
