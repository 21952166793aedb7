"""Reconstruction by a denoiser: noise is added up to a time, and taken away again."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Count, Share
from oboro.base.seeding import derive_seed
from oboro.codec import Identity
from oboro.detector.detector import Pictures, Reconstructing
from oboro.distance import Distance
from oboro.generate import walk
from oboro.guidance import DDAD
from oboro.loss.noise import Gaussian, Noise
from oboro.measurement import NAME, Mask, Measured
from oboro.modality import Modality
from oboro.sampler import DDIM
from oboro.task import Generation, Task

GAUSSIAN = Gaussian()


class PartialDiffusion(Reconstructing):
    """x̂ = what the sampler makes of x_t0 = alpha x + sigma eps, for each t0 in ``times``, averaged over ``draws`` of
    eps, of the kind that the model was trained with (``loss.noise``).

    What differs from the training data less than the noise at t0 is lost and drawn anew as they are: AnoDDPM
    (Wyatt et al. 2022, CVPR workshops, sec. 3) with one t0; Graham et al. 2023 (arXiv:2211.07740) with many, so that
    nobody has to choose one. Unless ``sampled`` x̂ is D(x_t0, t0), the denoising error at several noise levels at the
    cost of one evaluation each; of a network that was trained at one level alone, a denoising autoencoder (Vincent et
    al. 2008). ``guidance=ddad`` draws x̂ towards the sample on the way (Mousakhan et al. 2023,
    arXiv:2305.15956). The walk from t0 takes those of the sampler's steps that lie below it.
    """

    needs = "denoiser"

    def __init__(
        self,
        distances: Mapping[str, Distance],
        times: Annotated[Sequence[Share], Len(1)] | None,
        draws: Count = 1,
        sampled: bool = True,
    ):
        super().__init__(distances)
        self.times = self._levels = None if times is None else list(times)
        self.draws = draws
        self.sampled = sampled
        if self.times is not None and min(self.times) <= 0:
            raise UserError(
                f"times={self.times} has no noise in it, so that nothing is reconstructed; set detector.times to "
                "numbers above 0."
            )

    @property
    def reconstructions(self) -> Sequence[str]:
        return [f"t={t:g}" for t in self._levels or ()]

    def check(self, task: Task | None, modality: Modality) -> None:
        super().check(task, modality)
        assert isinstance(task, Generation)
        if task.guidance.measures and not isinstance(task.guidance, DDAD):
            raise UserError(
                f"{type(task.guidance).__name__} would give the sample itself back; choose guidance=ddad, or "
                "guidance=unguided."
            )
        if self.sampled and task.sampler.stochastic and not noise_of(task).gaussian:
            raise UserError(
                f"{type(task.sampler).__name__} as set draws normal numbers and the model has learned to remove "
                f"{type(noise_of(task)).__name__} noise; choose sampler=ddim or another one without noise."
            )
        if getattr(task.loss, "teaches_steps", None) == 1:
            raise UserError(
                f"{type(task.denoiser.network).__name__} makes samples of noise alone and restores none; choose "
                "detector=autoencoding for a VAE, or a checkpoint of task=diffusion."
            )
        only = getattr(task.loss, "teaches_time", None)
        if self.times is None and only is None:
            raise UserError(
                "the model has learned all noise levels, so that none is that of its training; set "
                "detector.times=[0.3] or others."
            )
        self._levels = list(self.times or ()) if only is None else [only]
        if only is not None and self.times not in (None, [only]):
            raise UserError(
                f"the model knows the noise level t={only:g} alone; choose detector=denoising_autoencoder, or set "
                f"detector.times=[{only:g}]."
            )
        for t in self._levels if self.sampled else ():
            task.sampler.nodes(task.denoiser.schedule, t)

    def reconstruct(self, task: Task | None, pictures: Pictures) -> Sequence[Sequence[Tensor]]:
        assert isinstance(task, Generation)
        x, cond, codec = pictures.x, pictures.cond, task.codec
        if task.guidance.measures:
            everywhere = Mask(torch.ones_like(x[:, :1], dtype=torch.bool))
            given = Measured(x, torch.zeros(len(x), device=x.device), everywhere)
            if not isinstance(codec, Identity):
                given = replace(given, decode=codec.decode)
            cond = replace(cond, sampling={**cond.sampling, NAME: given})
        z = codec.encode(x).float()
        schedule = task.denoiser.schedule

        def made(start: float, draw: int) -> Tensor:
            seed = derive_seed(pictures.seed, "reconstruction", draw)
            eps = noise_of(task).of_samples(derive_seed(seed, "start"), pictures.ids, z)
            latents = walk(
                task.denoiser,
                task.guidance,
                task.sampler if self.sampled else DDIM(1),
                ids=pictures.ids,
                seed=seed,
                cond=task.seen(cond),
                latent_shape=tuple(z.shape[1:]),
                device=z.device,
                x_t=schedule.add_noise(z, eps, torch.full((len(z),), start, device=z.device)),
                start=start,
            )
            return codec.decode(latents).float()

        return [[made(t, k) for k in range(self.draws)] for t in self._levels or ()]


def noise_of(task: Generation) -> Noise:
    """What the model has learned to remove."""
    return getattr(task.loss, "noise", GAUSSIAN)
