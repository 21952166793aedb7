"""Samples from a denoiser, where sample ``i`` depends on (seed, i) alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakSet

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.finite import FAR, check_finite
from oboro.base.remark import remark
from oboro.base.seeding import SampleNoise
from oboro.codec import Identity
from oboro.condition import Condition
from oboro.denoiser import Denoises
from oboro.guidance import Guidance, Guided
from oboro.measurement import NAME, Measured
from oboro.sampler import Node, Sampler

Watch = Callable[[Tensor, Tensor], None]
Guides = Callable[[Denoises, Sequence[Node]], Denoises]  # any ``Guidance``, or what is to be like one for one walk


class Watched(Guided):
    """The same denoiser; ``watch`` gets each x̂0 (B, ...) and its t (B,)."""

    def __init__(self, denoiser: Denoises, watch: Watch):
        super().__init__(denoiser)
        self.watch = watch

    def steer(self, conditional: Tensor, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        self.watch(conditional, t)
        return conditional


@torch.no_grad()
def walk(
    denoiser: Denoises,
    guidance: Guides,
    sampler: Sampler,
    *,
    ids: Sequence[int],
    seed: int,
    cond: Condition,
    latent_shape: tuple[int, ...],
    device: torch.device,
    x: Tensor | None = None,
    x_t: Tensor | None = None,
    start: float = 1.0,
    stop: float = 0.0,
    watch: Watch | None = None,
) -> Tensor:
    """Latents (len(ids), *latent_shape) at time ``stop``, of a walk that begins at time ``start``:

    - by default in noise, x_1 = sigma_1 eps;
    - with ``x``, latents of data, in x_start = alpha x + sigma eps: SDEdit (Meng et al. 2022, arXiv:2108.01073). At
      start = 0 that is ``x`` itself, and a walk up from there is its inversion;
    - with ``x_t``, in these latents at ``start``, such as a former walk has left.

    eps is the first draw of each sample, the same in the first two cases and unused in the third. Other arguments as in
    ``generate``. Raises ``UserError`` for a walk that has nothing to begin with, and as ``Sampler.nodes`` does.
    """
    schedule, shape = denoiser.schedule, (len(ids), *latent_shape)
    grid = sampler.nodes(schedule, start, stop)
    if (x is not None and x_t is not None) or (x is None and x_t is None and start < 1):
        choice = "one of them" if x is None else "not both"
        raise UserError(f"a walk from t={start:g} begins in data, x, or in noisy data, x_t; give {choice}.")
    for name, given in {"x": x, "x_t": x_t}.items():
        if given is not None and given.shape != shape:
            raise UserError(f"{name} of shape {tuple(given.shape)} is not one latent for each id; make it {shape}.")
    noise = SampleNoise(seed, ids)
    eps = noise(torch.empty(shape, device=device))
    if x_t is not None:
        begun = x_t.to(eps)
    elif x is not None:
        x = x.to(eps)
        begun = schedule.add_noise(x, eps, torch.full((len(ids),), start, device=device)) if start > 0 else x
    else:
        begun = schedule.prior(eps)
    cond = cond.to(device)
    guided = guidance(denoiser, grid)
    if watch is not None:
        guided = Watched(guided, watch)
    return sampler(guided, begun, cond, noise, start, stop)


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
    x: Tensor | None = None,
    x_t: Tensor | None = None,
    start: float = 1.0,
    watch: Watch | None = None,
) -> Tensor:
    """Samples (len(ids), C, ...) in the range of the model, float32. ``cond`` belongs to ``ids``.

    Nothing is cut off: what is stored of a sample is for ``Modality.to_stored`` to say. Raises ``UserError`` for
    samples that hold NaN or infinity; numbers far from all data are remarked once for a denoiser.

    x_T and every later draw come from per-sample CPU generators, so they are the same on every type of device.
    ``x``, ``x_t`` and ``start`` say in what the ``walk`` to the data begins, if not in noise.
    What a measurement in ``cond.sampling`` knows without noise is in the samples to the last bit, whoever drew towards
    it; guidance sees it through the decoder.
    ``watch`` is called after each evaluation of the guided denoiser, ``sampler.evaluations(schedule, start)`` times if
    that is a fixed number, with x̂0, a latent, and t: for progress bars and previews.
    """
    given = cond.sampling.get(NAME)
    if isinstance(given, Measured) and not isinstance(codec, Identity):
        cond = replace(cond, sampling={**cond.sampling, NAME: replace(given, decode=codec.decode)})
    latents = walk(
        denoiser,
        guidance,
        sampler,
        ids=ids,
        seed=seed,
        cond=cond,
        latent_shape=latent_shape,
        device=device,
        x=x,
        x_t=x_t,
        start=start,
        watch=watch,
    )
    samples = codec.decode(latents).float()
    if isinstance(given, Measured):
        samples = given.to(samples.device).pasted(samples)
    own = [ids.index(i) for i in dict.fromkeys(ids)]  # without those that only fill the chunk
    check_samples(samples[own], latents[own], guidance, denoiser)
    return samples


_remarked: WeakSet[object] = WeakSet()  # denoisers whose samples lie far out


def check_samples(samples: Tensor, latents: Tensor, guidance: Guidance, denoiser: object) -> None:
    """Raises ``UserError`` for ``samples`` (B, ...) that are no numbers, with the likely causes."""
    largest = float(samples.abs().amax()) if samples.numel() else 0.0
    if largest <= FAR:
        return
    scale = getattr(guidance, "scale", 1)
    guided = f"lower guidance.scale, which is {scale:g}, " if isinstance(scale, int | float) and scale != 1 else ""
    remedy = f"{guided}set more sampler.steps or precision=32-true, or take another checkpoint if its weights diverged"
    check_finite(latents, "samples", remedy)
    check_finite(samples, "decoded samples", "their latents are finite: set precision=32-true, or choose another codec")
    if denoiser not in _remarked:
        _remarked.add(denoiser)
        remark(
            f"samples reach {largest:.3g} where data are between -1 and 1, or a few standard deviations: pictures of "
            f"them are cut off and numbers say little; {guided}set more sampler.steps, or train longer."
        )
