"""What the tasks share that train a denoiser to draw samples with."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from oboro.adapter import Adapter, Full, relative_update
from oboro.base.compiled import compile_in_place
from oboro.base.counted import counted
from oboro.base.draws import Noise, rand
from oboro.base.errors import UserError
from oboro.base.ranges import Seed
from oboro.base.remark import remark
from oboro.codec import Codec, Identity
from oboro.condition import Condition, Control, Image, kinds_read
from oboro.conditioner import Conditioner
from oboro.conditioner import Image as Picture
from oboro.data import DataModule
from oboro.denoiser import Denoiser
from oboro.divergence import Divergence
from oboro.ema import EMA
from oboro.generate import Watch, generate
from oboro.guidance import DDNM, Guidance
from oboro.hint.hint import with_channels
from oboro.lesson import Lesson, lesson_of
from oboro.loss import Game, Loss
from oboro.loss.loss import guidance_scales
from oboro.loss.straight import quantiles
from oboro.measurement import NAME, Mask, Measured
from oboro.model.signals import by_name
from oboro.optimizer import Optimizer
from oboro.sampler import Node, Sampler
from oboro.schedule import expand_as
from oboro.task import contradictions, guidance_scale, remarks
from oboro.task.noise_levels import NoiseLevels
from oboro.task.training_sizes import check_training_sizes


class Generation(NoiseLevels):
    """``denoiser`` trained by ``loss`` on ``codec.encode(x)`` under ``conditioner``, averaged by ``ema``; samples are
    drawn of it with ``guidance`` and ``sampler``.

    ``adapter`` says which weights of the network are trained; None stands for all. Samples are a function of
    (seed, id). ``compile`` compiles the network in place, which keeps the names of its weights. ``measured`` says
    whether samples are drawn of a measurement: never in training. Where the steps of ``sampler`` are learned
    (``learns_steps``), ``learned_nodes`` are those of training once the task is restored.
    """

    draws = True
    learns_steps = False
    learned_nodes: Sequence[Node] | None = None

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Codec,
        conditioner: Conditioner,
        loss: Loss | Game,
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
        self.measured = False
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
    def entries(self) -> set[str]:
        """The entries of a batch that its condition is made of."""
        return self.conditioner.entries

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
        contradictions.check(self, self.measured)
        remarks.say(self)

    @property
    def lesson(self) -> Lesson:
        """What the loss teaches, at the times of training where these are known (``learned_nodes``)."""
        lesson = lesson_of(self.loss)
        least = getattr(self.loss, "least_noise", None)
        if least is not None:
            log_snr = torch.tensor(-2 * log(least), dtype=torch.float64, device="cpu")
            lesson = replace(lesson, lowest=float(self.denoiser.schedule.t_from_log_snr(log_snr)))
        if self.learned_nodes is not None:
            lesson = replace(lesson, times=tuple(node.t for node in self.learned_nodes))
        return lesson

    def check_judge(self, judge: str) -> None:
        """Raises ``UserError`` where samples are to be measured in the features, of the extractor of the class
        ``judge``, that the model has learned from."""
        return None

    def check_training(self, data: DataModule) -> None:
        """Raises ``UserError`` for a teacher of other samples, or that does not know what the loss asks it, and for
        sizes of training that some part does not take."""
        check_training_sizes(self, data)
        contradictions.check_learning(self)
        if self.loss.teacher is not None:
            self.loss.teacher.check(data.modality.shape, self.codec)
            contradictions.check_teacher(self)

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
        read = by_name(getattr(network, "image_channels", 0))
        encodes = self.codec.latent_shape(data.modality.shape) != data.modality.shape
        for single in self._pictures:
            if single.name in read and encodes and not single.latent:
                raise UserError(
                    f"the picture {single.name} is as large as the data, and this codec makes the network see latents; "
                    "set conditioner.latent=true (of a joint condition conditioner.parts.<part>.latent=true), so that "
                    "it is encoded, too."
                )
            given = self.codec.channels if single.latent else single.image_channels
            if read.get(single.name, given) != given:
                raise UserError(
                    f"{type(network).__name__} reads {counted(read[single.name], 'channels')} of the picture "
                    f"{single.name}, which has {given}; leave out model.image_channels, which follows the conditioner."
                )

    @property
    def _pictures(self) -> list[Picture]:
        """The conditions that are pictures."""
        return [single for single in self.conditioner.singles if isinstance(single, Picture)]

    def seen(self, cond: Condition, batch: Mapping[str, Any] = MappingProxyType({})) -> Condition:
        """``cond`` as the network sees it: pictures with ``latent`` are what the codec makes of them, with the channels
        that it encodes, and known where all pixels are that became one. Of pictures of the data the ``batch`` that they
        are from may have the latents (``callbacks.LatentCache``).

        Rombach et al. (arXiv:2112.10752, sec. 4.5) shrink the mask by its nearest pixels. InstructPix2Pix
        (arXiv:2211.09800) takes these latents before they are scaled: its weights for them are ours times the scale.
        """
        encoded = {
            single.name: self._encoded(signal, None if single.computed else batch.get(f"{single.entry}_latent"))
            for single in self._pictures
            if single.latent and isinstance(signal := cond.signals.get(single.name), Image)
        }
        return replace(cond, signals={**cond.signals, **encoded}) if encoded else cond

    def _encoded(self, image: Image, z: Tensor | None) -> Image:
        channels = image.x.shape[1] if self.modality is None else self.modality.shape[0]
        z = self.codec.encode(with_channels(image.x, channels)) if z is None else z
        present = image.known.reshape(len(z), -1).any(1)
        known = present
        if image.has_hole:
            known = adaptive_max_pool2d((~image.known).to(z), z.shape[2:]) == 0
        return Image(torch.where(expand_as(present, z), z, 0.0), known)

    def _known(self, cond: Condition) -> Image | None:
        """The picture whose known pixels samples are to have."""
        kept = (cond.signals.get(s.name) for s in self._pictures if s.hint.keeps_known)
        return next((image for image in kept if isinstance(image, Image)), None)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        population = self.trainer.datamodule.population
        self.conditioner.check(population)
        for line in self.conditioner.unread(population):
            remark(line)

    def on_train_end(self) -> None:
        if self.needs_start:
            remarks.remark_small(relative_update(self.learned))

    @abstractmethod
    def learn(self, x: Tensor, cond: Condition, generator: torch.Generator) -> Tensor:
        """What training lowers (B,) for latents ``x`` (B, ...) under ``cond``; draws are ``generator``'s."""

    def objective(self, batch: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        cond = self.seen(self.conditioner(batch, generator), batch)
        if guidance_scales(self.loss) is not None:
            cond = guidance_scale.drawn(self.loss, cond, rand(x.shape[:1], generator).to(x))
        loss = self.learn(x, cond, generator)
        return loss * batch["weight"] if "weight" in batch else loss

    def errors(self, batch: dict[str, Tensor], x: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        cond = guidance_scale.drawn(self.loss, self.seen(self.conditioner.keep(batch), batch), quantiles(u, 4)[3])
        return self.loss.at_quantile(self.denoiser, x, cond, u, eps)[:, None]

    def summary(self, rows: Tensor) -> dict[str, float]:
        """Without numbers by noise level where the loss has one level alone."""
        numbers = super().summary(rows)
        lesson = lesson_of(self.loss)
        one = lesson.generates_alone or lesson.time is not None
        return {name: numbers[name] for name in self.measures} if one else numbers

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

        From noise, or from latents ``x`` or ``x_t`` at time ``start``, see ``oboro.generate.walk``. ``cond`` has
        pictures as they are (``seen``). Where the hint keeps them, the known pixels of a picture with a hole are taken
        for measured: they are in every x̂0 (``DDNM``; not of latents), and in samples to the last bit.
        """
        cond, guidance = cond.to(self.device), self.guidance
        known = self._known(cond)
        if known is not None and known.x.shape[1] == shape[0]:
            clean = Measured(known.x, torch.zeros(len(known.x), device=self.device), Mask(known.known))
            cond = replace(cond, sampling={NAME: clean, **cond.sampling})
            if isinstance(self.codec, Identity) and not (guidance.measures or self.sampler.measures):
                guidance = DDNM(inside=guidance)
        return generate(
            self.denoiser,
            guidance,
            self.sampler,
            self.codec,
            ids=ids,
            seed=seed,
            cond=self.seen(cond),
            latent_shape=self.codec.latent_shape(shape),
            device=self.device,
            watch=watch,
            x=x,
            x_t=x_t,
            start=start,
        )
