"""Training of a denoiser."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oboro.adapter import Adapter, Full, relative_update
from oboro.base.compiled import compile_in_place
from oboro.base.counted import counted
from oboro.base.draws import Noise
from oboro.base.errors import UserError
from oboro.base.ranges import Seed
from oboro.base.remark import remark
from oboro.codec import Codec
from oboro.condition import Condition, Control, Image, kinds_read
from oboro.conditioner import Conditioner
from oboro.data import DataModule
from oboro.denoiser import Denoiser
from oboro.divergence import Divergence
from oboro.ema import EMA
from oboro.generate import Watch, generate
from oboro.guidance import Guidance
from oboro.loss import Loss
from oboro.optimizer import Optimizer
from oboro.sampler import Sampler
from oboro.task import contradictions, remarks
from oboro.task.noise_levels import NoiseLevels


class Diffusion(NoiseLevels):
    """``denoiser`` trained by ``loss`` on ``codec.encode(x)`` under ``conditioner``, averaged by ``ema``.

    ``adapter`` says which weights of the network are trained; None stands for all. Samples are a function of
    (seed, id). ``compile`` compiles the network in place, which keeps the names of its weights.
    """

    draws = True

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Codec,
        conditioner: Conditioner,
        loss: Loss,
        guidance: Guidance,
        sampler: Sampler,
        ema: EMA,
        optimizer: Optimizer,
        adapter: Adapter | None = None,
        seed: Seed = 0,
        compile: bool = False,
        noise: Noise = "per_rank",
        divergence: Divergence | None = None,
    ):
        super().__init__(codec, loss, ema, optimizer, seed, noise, divergence)
        self.denoiser = denoiser
        self.adapter = adapter or Full()
        self.adapter(self.denoiser.network)
        self.needs_start = self.adapter.needs_start
        self.conditioner = conditioner
        self.guidance = guidance
        self.sampler = sampler
        if compile:
            compile_in_place(self.denoiser.network)

    @property
    def learned(self) -> Denoiser:
        return self.denoiser

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        of_network = getattr(self.denoiser.network, "frozen", {})
        inner = {f"denoiser.network.{name}": part for name, part in of_network.items()}
        return {**super().frozen, "conditioner": self.conditioner, **inner}

    @property
    def description(self) -> str:
        return f"{type(self.denoiser.parameterization).__name__} on {type(self.denoiser.schedule).__name__}"

    def check(self, data: DataModule) -> None:
        """Raises ``UserError`` for a network that makes no sample of one (or two, with a learned variance), labels that
        the data does not have, or parts that contradict each other (``oboro.task.contradictions``)."""
        channels, *size = self.codec.latent_shape(data.modality.shape)
        one, two = (channels, *size), (2 * channels, *size)
        if self.loss.teaches_variance:
            self.check_network(data, [two], "unet_tiny model.learned_variance=true")
        else:
            self.check_network(data, [one, two], "unet_tiny")
        self.check_signals(data)
        contradictions.check(self)
        remarks.say(self)

    def check_signals(self, data: DataModule) -> None:
        """Raises ``UserError`` where the network does not read what the conditioner gives, or the data have not what
        it is made of."""
        if self.conditioner.num_classes not in (0, data.num_classes):
            raise UserError(
                f"the conditioner has {counted(self.conditioner.num_classes, 'classes')} and the data "
                f"{data.num_classes}; set data.num_classes alone, conditioner.num_classes follows it."
            )
        network = self.denoiser.network
        for name, kind in self.conditioner.gives.items():
            if not issubclass(kind, kinds_read(network).get(name, ())):
                raise UserError(
                    f"{type(network).__name__} reads no {name}; choose model=unet or model=dit or one of "
                    "their sizes, or another conditioner."
                )
        for name, kind in kinds_read(network).items():
            if issubclass(kind, Control) and name not in self.conditioner.gives:
                raise UserError(
                    f"{type(network).__name__} learns to follow the picture {name} and no condition gives it; name "
                    "model.base.path on the command line, with which one comes, or choose conditioner=control."
                )
        kinds = self.conditioner.gives.values()
        pictures = any(issubclass(kind, Image) and not issubclass(kind, Control) for kind in kinds)
        if pictures and self.codec.latent_shape(data.modality.shape) != data.modality.shape:
            raise UserError(
                "conditioner=image gives pictures as large as the data, and this codec makes the network see latents; "
                "choose codec=identity, or another conditioner."
            )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        population = self.trainer.datamodule.population
        self.conditioner.check(population)
        for line in self.conditioner.unread(population):
            remark(line)

    def on_train_end(self) -> None:
        if self.needs_start:
            remarks.remark_small(relative_update(self.learned))

    def objective(self, batch: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        loss = self.loss(self.denoiser, x, self.conditioner(batch, generator), generator)
        return loss * batch["weight"] if "weight" in batch else loss

    def errors(self, batch: dict[str, Tensor], x: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        return self.loss.at_quantile(self.denoiser, x, self.conditioner.keep(batch), u, eps)[:, None]

    def generate(
        self,
        ids: list[int],
        seed: int,
        cond: Condition,
        shape: tuple[int, ...],
        watch: Watch | None = None,
        *,
        x: Tensor | None = None,
        x_t: Tensor | None = None,
        start: float = 1.0,
    ) -> Tensor:
        """Samples (len(ids), C, ...) of ``shape`` (C, ...), in the range of the model, from the current weights, with
        the task's guidance and sampler.

        From noise, or from latents ``x`` or ``x_t`` at time ``start``, see ``oboro.generate.walk``.
        """
        return generate(
            self.denoiser,
            self.guidance,
            self.sampler,
            self.codec,
            ids=ids,
            seed=seed,
            cond=cond,
            latent_shape=self.codec.latent_shape(shape),
            device=self.device,
            watch=watch,
            x=x,
            x_t=x_t,
            start=start,
        )
