"""How improbable a sample is to a model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Count, Steps
from oboro.detector.detector import Detector, Pictures
from oboro.evaluate.likelihood import bits_per_dim
from oboro.lesson import lesson_of
from oboro.modality import Modality
from oboro.task import Generation, Task


class Likelihood(Detector):
    """Bits per dimension, (B, 1), by the probability-flow ODE (``oboro.evaluate.likelihood``): ``steps`` of Runge-Kutta
    with 4 evaluations and ``probes`` vector-Jacobian products each.

    A number that simple samples have less of than complicated ones, whatever a model has learned from (Nalisnick et
    al. 2019, arXiv:1810.09136): here to be compared with.
    """

    needs = "denoiser"

    def __init__(self, steps: Steps = 16, probes: Count = 1):
        self.steps = steps
        self.probes = probes

    @property
    def names(self) -> Sequence[str]:
        return ["bits per dimension"]

    def check(self, task: Task | None, modality: Modality) -> None:
        assert isinstance(task, Generation)
        self.modality = modality
        limit = lesson_of(task.loss).limit
        if limit is not None:
            raise UserError(
                f"the checkpoint's model {limit}, and a likelihood needs means at all noise levels; choose "
                "detector=autoencoding for a VAE, or a checkpoint of loss=denoising."
            )
        if modality.dtype != torch.uint8:
            raise UserError(
                f"bits per dimension are a measure for numbers of 8 bits and {modality.noun} have "
                f"{modality.quantisation}; choose detector=partial_diffusion."
            )
        if task.codec.latent_shape(modality.shape) != modality.shape:
            raise UserError(
                "a density of latents is none of pictures; choose detector=partial_diffusion, or a model of pixels."
            )

    def __call__(self, task: Task | None, pictures: Pictures) -> Tensor:
        assert isinstance(task, Generation)
        stored = self.modality.to_stored(pictures.x)
        numbers = {"steps": self.steps, "probes": self.probes}
        with torch.autocast(stored.device.type, enabled=False):  # half precision does not do
            bits = bits_per_dim(
                task.denoiser, stored, task.seen(pictures.cond), seed=pictures.seed, ids=pictures.ids, **numbers
            )
        return bits[:, None].to(pictures.x)
