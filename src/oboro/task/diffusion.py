"""Training of a denoiser."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oboro.adapter import Adapter, Full
from oboro.base.errors import UserError
from oboro.codec import Identity
from oboro.conditioner import Conditioner
from oboro.data import ImageData
from oboro.denoiser import Cond, Denoiser
from oboro.ema import EMA
from oboro.generate import Watch, generate
from oboro.guidance import Guidance
from oboro.loss import Denoising, Hybrid
from oboro.optimizer import Optimizer
from oboro.sampler import Sampler
from oboro.task import contradictions
from oboro.task.noise_levels import NoiseLevels


class Diffusion(NoiseLevels):
    """``denoiser`` trained by ``loss`` on ``codec.encode(image)`` under ``conditioner``, averaged by ``ema``.

    ``adapter`` says which weights of the network are trained; None stands for all. Samples are a function of
    (seed, id). ``compile`` compiles the network in place, which keeps the names of its weights.
    """

    draws = True

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Identity,
        conditioner: Conditioner,
        loss: Denoising | Hybrid,
        guidance: Guidance,
        sampler: Sampler,
        ema: EMA,
        optimizer: Optimizer,
        adapter: Adapter | None = None,
        seed: int = 0,
        compile: bool = False,
    ):
        super().__init__(codec, loss, ema, optimizer, seed)
        self.denoiser = denoiser
        self.adapter = adapter or Full()
        self.adapter(self.denoiser.network)
        self.needs_start = self.adapter.needs_start
        self.conditioner = conditioner
        self.guidance = guidance
        self.sampler = sampler
        if compile:
            self.denoiser.network.compile()

    @property
    def learned(self) -> Denoiser:
        return self.denoiser

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        return {**super().frozen, "conditioner": self.conditioner}

    @property
    def description(self) -> str:
        return f"{type(self.denoiser.parameterization).__name__} on {type(self.denoiser.schedule).__name__}"

    def check(self, data: ImageData) -> None:
        """Raises ``UserError`` for a network that makes no image of one (or two, with a learned variance), labels that
        the data does not have, or parts that contradict each other (``oboro.task.contradictions``)."""
        if self.conditioner.num_classes not in (0, data.num_classes):
            raise UserError(
                f"the conditioner has {self.conditioner.num_classes} classes and the data {data.num_classes}; "
                "set data.num_classes alone, conditioner.num_classes follows it."
            )
        if self.conditioner.text_dim and not self.denoiser.network.text_dim:
            raise UserError(
                f"{type(self.denoiser.network).__name__} reads no text; choose model=unet or model=dit or one of their "
                "sizes, or conditioner=label or unconditional."
            )
        channels, *size = self.codec.latent_shape(data.image_shape)
        image, two = (channels, *size), (2 * channels, *size)
        if self.loss.teaches_variance:
            self.check_network(data, [two], "unet_tiny model.learned_variance=true")
        else:
            self.check_network(data, [image, two], "unet_tiny")
        contradictions.check(self)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.conditioner.check(self.trainer.datamodule.population)

    def objective(self, batch: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        loss = self.loss(self.denoiser, x, self.conditioner(batch, generator), generator)
        return loss * batch["weight"] if "weight" in batch else loss

    def errors(self, batch: dict[str, Tensor], x: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        return self.loss.at_quantile(self.denoiser, x, self.conditioner.keep(batch), u, eps)[:, None]

    def generate(
        self, ids: list[int], seed: int, cond: Cond, image_shape: tuple[int, int, int], watch: Watch | None = None
    ) -> Tensor:
        """Images (len(ids), C, H, W) in [-1, 1] from the current weights, with the task's guidance and sampler."""
        return generate(
            self.denoiser,
            self.guidance,
            self.sampler,
            self.codec,
            ids=ids,
            seed=seed,
            cond=cond,
            latent_shape=self.codec.latent_shape(image_shape),
            device=self.device,
            watch=watch,
        )
