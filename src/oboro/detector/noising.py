"""Reconstruction by a denoiser: noise is added up to a time, and taken away again."""

from abc import abstractmethod
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
from oboro.condition import Condition
from oboro.detector.detector import Pictures, Reconstructing
from oboro.distance import Distance
from oboro.generate import walk
from oboro.guidance import DDAD
from oboro.lesson import Lesson, lesson_of
from oboro.loss.noise import Gaussian, Noise
from oboro.measurement import NAME, Mask, Measured
from oboro.modality import Modality
from oboro.sampler import DDIM, Sampler
from oboro.task import Generation, Task

GAUSSIAN = Gaussian()
TIMES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
Times = Annotated[Sequence[Share], Len(1)]


class Noising(Reconstructing):
    """x̂ of x_t0 = alpha x + sigma eps for each t0 in ``times``, with ``draws`` of eps each, which is of the kind that
    the model was trained with (``loss.noise``)."""

    needs = "denoiser"

    def __init__(self, distances: Mapping[str, Distance], times: Times | None, draws: Count):
        super().__init__(distances)
        self.times = self._levels = None if times is None else list(times)
        self.draws = draws
        if self.times is not None and min(self.times) <= 0:
            raise UserError(
                f"times={self.times} has no noise in it, so that nothing is reconstructed; set detector.times to "
                "numbers above 0."
            )

    @property
    def reconstructions(self) -> Sequence[str]:
        return [f"t={t:g}" for t in self._levels or ()]

    @abstractmethod
    def can_ask(self, lesson: Lesson) -> bool:
        """Whether it asks no more of a model than that."""

    @abstractmethod
    def sampler(self, task: Generation) -> Sampler:
        """What leads from x_t0 to x̂."""

    def check(self, task: Task | None, modality: Modality) -> None:
        super().check(task, modality)
        assert isinstance(task, Generation)
        if task.guidance.measures and not isinstance(task.guidance, DDAD):
            raise UserError(
                f"{type(task.guidance).__name__} would give the sample itself back; choose guidance=ddad, or "
                "guidance=unguided."
            )
        lesson, self._levels = task.lesson, self.levels(task)
        walks = [self.sampler(task).nodes(task.denoiser.schedule, t) for t in self._levels]
        known = all(lesson.knows(node.t) for walk in walks for node in walk[:-1])
        if lesson.limit is not None and not (known and self.can_ask(lesson)):
            raise UserError(
                f"the checkpoint's {type(task.denoiser.network).__name__} {lesson.limit}, and "
                f"{type(self).__name__} asks for more; choose detector=autoencoding for a VAE, or a checkpoint of "
                "loss=denoising."
            )

    def levels(self, task: Generation) -> list[float]:
        """The times t0 for the model of ``task``."""
        only = lesson_of(task.loss).time
        if only is not None and self.times not in (None, [only]):
            raise UserError(
                f"the model knows the noise level t={only:g} alone; choose detector=denoising_error and leave "
                "detector.times out."
            )
        return [only] if only is not None else list(self.times or TIMES)

    def reconstruct(self, task: Task | None, pictures: Pictures) -> Sequence[Sequence[Tensor]]:
        assert isinstance(task, Generation)
        z, cond = task.codec.encode(pictures.x).float(), task.seen(with_itself(task, pictures))
        schedule, sampler = task.denoiser.schedule, self.sampler(task)

        def made(start: float, draw: int) -> Tensor:
            seed = derive_seed(pictures.seed, "reconstruction", draw)
            eps = noise_of(task).of_samples(derive_seed(seed, "start"), pictures.ids, z)
            latents = walk(
                task.denoiser,
                task.guidance,
                sampler,
                ids=pictures.ids,
                seed=seed,
                cond=cond,
                latent_shape=tuple(z.shape[1:]),
                device=z.device,
                x_t=schedule.add_noise(z, eps, torch.full((len(z),), start, device=z.device)),
                start=start,
            )
            return task.codec.decode(latents).float()

        return [[made(t, k) for k in range(self.draws)] for t in self.levels(task)]


class PartialDiffusion(Noising):
    """x̂ = what the sampler makes of x_t0.

    What differs from the training data less than the noise at t0 is lost and drawn anew as they are: AnoDDPM
    (Wyatt et al. 2022, CVPR workshops, sec. 3) with one t0; Graham et al. 2023 (arXiv:2211.07740) with many, so that
    nobody has to choose one. ``guidance=ddad`` draws x̂ towards the sample on the way (Mousakhan et al. 2023,
    arXiv:2305.15956). The walk from t0 takes those of the sampler's steps that lie below it.
    """

    def __init__(self, distances: Mapping[str, Distance], times: Times, draws: Count = 1):
        super().__init__(distances, times, draws)

    def can_ask(self, lesson: Lesson) -> bool:
        return lesson.steps is None  # a jump from t0 to the data is a sample, too

    def sampler(self, task: Generation) -> Sampler:
        return task.sampler

    def check(self, task: Task | None, modality: Modality) -> None:
        super().check(task, modality)
        assert isinstance(task, Generation)
        if task.sampler.stochastic and not noise_of(task).gaussian:
            raise UserError(
                f"{type(task.sampler).__name__} as set draws normal numbers and the model has learned to remove "
                f"{type(noise_of(task)).__name__} noise; choose sampler=ddim or another one without noise."
            )


class DenoisingError(Noising):
    """x̂ = the mean over draws of D(x_t0, t0): the error of the denoiser at several noise levels, one evaluation each;
    of a network that was trained at one level alone, a denoising autoencoder's (Vincent et al. 2008). ``times`` None:
    that level, or of a model of all levels 0.2, 0.3, … 0.8."""

    def __init__(self, distances: Mapping[str, Distance], times: Times | None = None, draws: Count = 4):
        super().__init__(distances, times, draws)

    def reconstruct(self, task: Task | None, pictures: Pictures) -> Sequence[Sequence[Tensor]]:
        # The error of the mean is that of a mean: what each draw errs in is not the sample's.
        return [[torch.stack(list(made)).mean(0)] for made in super().reconstruct(task, pictures)]

    def can_ask(self, lesson: Lesson) -> bool:
        return lesson.time is not None and not lesson.generates_alone

    def sampler(self, task: Generation) -> Sampler:
        return DDIM(1)


def with_itself(task: Generation, pictures: Pictures) -> Condition:
    """The condition of ``pictures``, and where guidance draws towards a measurement, themselves as what is measured."""
    if not task.guidance.measures:
        return pictures.cond
    x = pictures.x
    everywhere = Mask(torch.ones_like(x[:, :1], dtype=torch.bool))
    given = Measured(x, torch.zeros(len(x), device=x.device), everywhere)
    if not isinstance(task.codec, Identity):
        given = replace(given, decode=task.codec.decode)
    return replace(pictures.cond, sampling={**pictures.cond.sampling, NAME: given})


def noise_of(task: Generation) -> Noise:
    """What the model has learned to remove."""
    return getattr(task.loss, "noise", GAUSSIAN)
